"""The VirtualMachine for raw images: what KubeVirt needs of the first VM, and nothing that is not there."""

from typing import Any

import pytest
import yaml

from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import RestoreDisk, RestoreRun
from vmbackup.core.virtual_machine import virtual_machine
from vmbackup.errors import Failed

XML = """
<domain type='kvm'><name>demo_web</name><memory unit='KiB'>2097152</memory><vcpu placement='static'>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><nvram>/nvram/web.fd</nvram></os>
<devices><disk><target dev='vda' bus='virtio'/></disk><disk><target dev='hdb' bus='ide'/></disk>
<disk><target dev='sdc' bus='scsi'/></disk><interface type='network'><mac address='52:54:00:aa:bb:cc'/></interface>
</devices></domain>
"""


def run(*targets: str, vm: str = "web") -> RestoreRun:
    directory = "/images/demo/back-7b0f3c51"
    disks = tuple(
        RestoreDisk(
            target=target,
            image=f"{target}.qcow2",
            image_format="qcow2",
            virtual_bytes=1,
            allocated_bytes=1,
            file=f"{directory}/{target}.raw",
            format="raw",
        )
        for target in targets
    )
    spec = {"source": {"backup": "b"}, "target": {"disks": {"format": "Raw"}}}
    return RestoreRun.model_validate(
        {
            "uid": "u",
            "namespace": "demo",
            "name": "back",
            "node": "node-1",
            "spec": spec,
            "kind": RestoreKind.DISKS,
            "vm": vm,
            "location": "nightly",
            "location_path": "/backups",
            "set_path": "demo/web/1",
            "disks": disks,
            "backup_uid": "b",
            "point_in_time": "",
            "images_path": "/images",
            "started_at": 0.0,
        }
    )


def made(xml: str = XML, *targets: str, vm: str = "web") -> dict[str, Any]:
    return dict(yaml.safe_load(virtual_machine(xml, run(*(targets or ("vda", "hdb", "sdc")), vm=vm))))


def test_cpus_memory_firmware_and_disks_are_those_of_the_first_vm() -> None:
    body = made()
    assert (body["kind"], body["metadata"]) == ("VirtualMachine", {"name": "web", "namespace": "demo"})
    assert body["spec"]["runStrategy"] == "Halted"
    pod = body["spec"]["template"]["spec"]
    assert pod["domain"]["cpu"]["cores"] == 2
    assert pod["domain"]["memory"] == {"guest": "2048Mi"}
    assert pod["domain"]["machine"] == {"type": "q35"}
    assert "efi" in pod["domain"]["firmware"]["bootloader"]
    buses = [disk["disk"]["bus"] for disk in pod["domain"]["devices"]["disks"]]
    assert buses == ["virtio", "sata", "scsi"]
    assert pod["volumes"][0] == {
        "name": "vda",
        "hostDisk": {"path": "/images/demo/back-7b0f3c51/vda.raw", "type": "Disk"},
    }
    assert pod["nodeSelector"] == {"kubernetes.io/hostname": "node-1"}
    assert "52:54:00" not in str(body)


def test_only_disks_that_were_restored_are_named() -> None:
    pod = made(XML, "sdc")["spec"]["template"]["spec"]
    assert [disk["name"] for disk in pod["domain"]["devices"]["disks"]] == ["sdc"]
    assert [volume["name"] for volume in pod["volumes"]] == ["sdc"]


def test_without_efi_there_is_no_firmware() -> None:
    assert "firmware" not in made(XML.replace("<nvram>/nvram/web.fd</nvram>", ""))["spec"]["template"]["spec"]["domain"]


@pytest.mark.parametrize(("vm", "name"), [("Web_1.prod", "web-1-prod"), ("_", "restored"), ("a" * 99, "a" * 63)])
def test_name_is_one_that_kubernetes_takes(vm: str, name: str) -> None:
    assert made(vm=vm)["metadata"]["name"] == name


@pytest.mark.parametrize(
    "xml", ["", "<domain/>", "<!DOCTYPE d [<!ENTITY a 'b'>]>" + XML, XML.replace("2097152", "much"), "<domain>"]
)
def test_xml_that_says_too_little_or_is_hostile_gives_none(xml: str) -> None:
    with pytest.raises(Failed):
        virtual_machine(xml, run("vda"))
