"""A VirtualMachine of KubeVirt for the raw images of a restore: what its domain.xml says of CPUs, memory and disks."""

import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

import yaml

from vmbackup.api.conditions import Reason
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.errors import Failed
from vmbackup.units import MIB

LONGEST_XML = 4 * MIB
LONGEST_NAME = 63
BUSES = {"virtio": "virtio", "scsi": "scsi", "usb": "usb"}  # what KubeVirt has beside sata
HEAD = """\
# Made by VMRestore {key} from set {set}. It is off: look at it, apply it, then start it (virtctl start).
# The volumes are files of node {node} (KubeVirt's feature gate HostDisk). For PersistentVolumeClaims copy each file
# into its claim as disk.img, and write persistentVolumeClaim in place of hostDisk.
"""


def virtual_machine(domain_xml: str, run: RestoreRun) -> str:
    """Return the manifest as YAML. Networks of the first VM are not taken over: it gets the pod's.

    Raises: Failed: the XML cannot be read, or has no CPUs and memory.
    """
    root = _parse(domain_xml)
    memory_kib = root.findtext("memory[@unit='KiB']", "").strip()  # libvirt writes KiB, whatever was given
    cpus = root.findtext("vcpu", "").strip()
    if not memory_kib.isdecimal() or not cpus.isdecimal():
        raise Failed(Reason.SET_BROKEN, "the set's domain.xml names no CPUs, or no memory in KiB")
    domain: dict[str, Any] = {
        "cpu": {"sockets": 1, "cores": int(cpus), "threads": 1},
        "memory": {"guest": f"{max(1, int(memory_kib) // 1024)}Mi"},
        "devices": {"disks": _disks(root, run), "interfaces": [{"name": "default", "masquerade": {}}]},
    }
    machine = root.find("os/type")
    if machine is not None and "q35" in machine.get("machine", ""):
        domain["machine"] = {"type": "q35"}
    if root.find("os/nvram") is not None or root.find("os[@firmware='efi']") is not None:
        domain["firmware"] = {"bootloader": {"efi": {"secureBoot": False}}}
    volumes = [{"name": disk.target, "hostDisk": {"path": disk.file, "type": "Disk"}} for disk in run.disks]
    pod = {
        "domain": domain,
        "networks": [{"name": "default", "pod": {}}],
        "nodeSelector": {"kubernetes.io/hostname": run.node},
        "volumes": volumes,
    }
    body = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": _name(run.vm), "namespace": run.namespace},
        "spec": {"runStrategy": "Halted", "template": {"spec": pod}},
    }
    head = HEAD.format(key=run.key, set=run.set_path, node=run.node)
    return head + yaml.safe_dump(body, sort_keys=False, width=120)


def _parse(domain_xml: str) -> ElementTree.Element:
    """Read a set's domain.xml. No DTD, so no entities that grow."""
    if len(domain_xml) > LONGEST_XML or "<!DOCTYPE" in domain_xml or "<!ENTITY" in domain_xml:
        raise Failed(Reason.SET_BROKEN, "the set's domain.xml is not what libvirt writes")
    try:
        return ElementTree.fromstring(domain_xml)  # noqa: S314 - without a DTD there is nothing to expand
    except (ElementTree.ParseError, ValueError) as error:
        raise Failed(Reason.SET_BROKEN, f"the set's domain.xml cannot be read: {error}") from error


def _disks(root: ElementTree.Element, run: RestoreRun) -> list[dict[str, Any]]:
    buses = dict(_buses(root.iterfind("devices/disk/target")))
    return [{"name": disk.target, "disk": {"bus": buses.get(disk.target, "sata")}} for disk in run.disks]


def _buses(targets: Iterable[ElementTree.Element]) -> Iterable[tuple[str, str]]:
    for target in targets:
        name = target.get("dev", "")
        yield name, BUSES.get(target.get("bus") or ("virtio" if name.startswith("vd") else ""), "sata")


def _name(vm: str) -> str:
    """Return the VM's name as Kubernetes takes it."""
    return re.sub(r"[^a-z0-9-]+", "-", vm.lower())[:LONGEST_NAME].strip("-") or "restored"
