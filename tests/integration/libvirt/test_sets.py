"""The published set: described, checked, private, and enough to run the VM again with qemu-img and virsh alone."""

import hashlib
import json
import subprocess
import uuid
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import libvirt
import pytest

from integration.libvirt.engine import Hook
from integration.libvirt.machines import VM, same_content
from integration.libvirt.releases import everywhere, methods
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk
from testbed.images import overlay_image, qemu_img
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB


def two_disks(rig: Rig) -> VM:
    return rig.vm(Disk(rig.image("a")), Disk(rig.image("b", "raw"), "vdb", "raw"), Disk(None, "sda", "raw", "cdrom"))


@everywhere
def test_checksums_are_those_of_the_files(rig: Rig, method: str) -> None:
    run = rig.run(two_disks(rig), method=method, verify="Checksum")
    published = assert_published(rig, run)
    lines = [line.split("  ", 1) for line in (published / "SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    others = [path for path in published.iterdir() if path.name != "SHA256SUMS"]
    assert listed == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in others}
    assert {disk.image: disk.sha256 for disk in run.disks}.items() <= listed.items()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], check=True, cwd=published)


@methods
def test_manifest_says_what_was_done(rig: Rig, method: str) -> None:
    vm = two_disks(rig)
    earliest = datetime.now(UTC)
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    manifest = json.loads((published / "manifest.json").read_text())
    assert manifest["schemaVersion"] == 1
    assert manifest["backupName"] == "backup"
    assert manifest["domain"] == vm.name
    assert manifest["method"] == method
    assert manifest["libvirtVersion"] == "9.0.0"
    assert manifest["hypervisorVersion"].startswith("7.2.")
    assert manifest["quiesced"] is False
    assert manifest["verified"] == "Check"
    assert manifest["skipped"] == {"sda": "the drive is empty"}
    for disk in manifest["disks"]:
        assert disk["source"] == str(vm.paths[disk["target"]])
        assert disk["storedBytes"] == (published / disk["file"]).stat().st_blocks * 512
    started, moment, done = (datetime.fromisoformat(manifest[key]) for key in ("started", "pointInTime", "published"))
    assert earliest.timestamp() - 1 <= started.timestamp() <= moment.timestamp() <= done.timestamp()
    assert not (published / "SHA256SUMS").exists()


@everywhere
def test_vm_runs_again_from_the_set_by_qemu_img_and_virsh_alone(rig: Rig, method: str) -> None:
    golden = rig.image("golden")
    top = overlay_image(rig.disks / "top.qcow2", golden)
    vm = rig.vm(Disk(top), Disk(rig.image("b", "raw"), "vdb", "raw"))
    published = assert_published(rig, rig.run(vm, method=method))
    vm.remove()
    restored = restore(rig, published)
    assert restored.portrait().state == "running"
    assert restored.portrait().live == {target: [str(path)] for target, path in restored.paths.items()}
    for target, path in vm.paths.items():
        assert same_content(restored.paths[target], path)


def restore(rig: Rig, published: Path) -> VM:
    """Do as the README tells people to."""
    domain = ET.fromstring((published / "domain.xml").read_text())  # noqa: S314 - our own set
    manifest = json.loads((published / "manifest.json").read_text())
    name, identity = f"restored-{rig.number}", str(uuid.uuid4())
    domain.find("name").text = name  # type: ignore[union-attr]
    domain.find("uuid").text = identity  # type: ignore[union-attr]
    paths: dict[str, Path] = {}
    for disk in manifest["disks"]:
        target = disk["target"]
        paths[target] = rig.disks / f"restored-{target}.qcow2"
        qemu_img("convert", "-f", disk["format"], "-O", "qcow2", str(published / disk["file"]), str(paths[target]))
        element = domain.find(f"devices/disk/target[@dev='{target}']/..")
        assert element is not None
        element.find("source").set("file", str(paths[target]))  # type: ignore[union-attr]
        element.find("driver").set("type", "qcow2")  # type: ignore[union-attr]
    definition = rig.place / "restored.xml"
    definition.write_text(ET.tostring(domain, encoding="unicode"))
    for command in (["define", str(definition)], ["start", name]):
        subprocess.run(["virsh", "--connect", rig.daemon.uri, *command], check=True, capture_output=True)
    vm = VM(rig.daemon, name, identity, rig.disks, paths)
    rig.vms.append(vm)
    return vm


@methods
def test_domain_xml_names_the_disks_not_our_overlays(rig: Rig, method: str) -> None:
    vm = rig.vm()
    published = assert_published(rig, rig.run(vm, method=method))
    text = (published / "domain.xml").read_text()
    assert ".overlay" not in text
    assert f"<source file='{vm.paths['vda']}'/>" in text
    connection = libvirt.open(rig.daemon.uri)
    try:
        assert connection.defineXML(text).UUIDString() == vm.uuid, "libvirt takes it back as it is"
    finally:
        connection.close()


def damage(image: str, at: int, data: bytes) -> Hook:
    """Damage an image of the set before it is verified, in the first attempt."""

    def hook(moment: str, run: Run) -> None:
        if moment == "before StartVerification" and run.attempt == 1:
            path = Path(run.location_path) / run.partial_path / image
            with path.open("r+b") as file:
                file.seek(at)
                file.write(data)

    return hook


@methods
@pytest.mark.parametrize(
    ("at", "data"),
    [
        pytest.param(0, b"not an image", id="header"),
        pytest.param(24, (MIB).to_bytes(8, "big"), id="size"),
        pytest.param(196608, b"\xff" * 512, id="tables"),
    ],
)
def test_damaged_copy_is_never_published(rig: Rig, method: str, at: int, data: bytes) -> None:
    vm = rig.vm()
    before = vm.portrait()
    backup = rig.backup(vm, method=method, hook=damage("vda.qcow2", at, data))
    run = backup.end()
    first = [seen.failure for seen, _ in backup.engine.ledger.reports if seen.attempt == 1 and seen.failure]
    assert first, "the damage was not noticed"
    assert first[0].reason == "VerificationFailed"
    assert "disk vda" in first[0].message
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2), "a second attempt heals it"
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@methods
def test_image_that_disappears_before_the_publication_is_no_set(rig: Rig, method: str) -> None:
    vm = rig.vm()

    def steal(moment: str, run: Run) -> None:
        if moment == "before Publish":
            (Path(run.location_path) / run.partial_path / "vda.qcow2").unlink()

    run = rig.backup(vm, method=method, hook=steal).end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert "vda.qcow2 is gone" in run.failure.message
    assert_nothing_published(rig)


@methods
def test_resized_disk_is_noticed(rig: Rig, method: str) -> None:
    """The disk grows between the plan and the point in time: the copy is as large as the disk is then."""
    vm = rig.vm()

    def grow(moment: str, run: Run) -> None:
        if moment in ("before BeginPush", "before TakeSnapshot") and run.attempt == 1:
            with vm.domain() as domain:
                domain.blockResize("vda", 96 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    backup = rig.backup(vm, method=method, hook=grow)
    run = backup.end()
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert run.attempt == 2, "the first attempt planned for another size"
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
