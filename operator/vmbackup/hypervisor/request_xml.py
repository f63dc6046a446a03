"""libvirt's XML: what we ask for. Built as elements, never as text: paths and names cannot break out."""

from collections.abc import Iterable, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vmbackup.api.conditions import Reason
from vmbackup.core.facts import DiskFacts
from vmbackup.errors import Failed

IMAGE_FORMAT = "qcow2"


def backup_xml(disks: Iterable[DiskFacts], targets: Mapping[str, str]) -> str:
    """Return the XML of a full push backup into new qcow2 files; `targets`: path by disk.

    Every disk of the VM is listed: libvirt would write an unlisted one next to its source.
    Raises: Failed: a target names no disk of the VM.
    """
    root = Element("domainbackup", mode="push")
    listed = SubElement(root, "disks")
    for disk in _all(disks, targets):
        if disk.target not in targets:
            SubElement(listed, "disk", name=disk.target, backup="no")
            continue
        entry = SubElement(listed, "disk", name=disk.target, backup="yes", type="file")
        SubElement(entry, "driver", type=IMAGE_FORMAT)
        SubElement(entry, "target", file=targets[disk.target])
    return ElementTree.tostring(root, encoding="unicode")


def snapshot_xml(disks: Iterable[DiskFacts], overlays: Mapping[str, str]) -> str:
    """Return the XML of an external snapshot into new qcow2 overlays; `overlays`: path by disk.

    Every disk of the VM is listed: libvirt would put an overlay on an unlisted one, too.
    Raises: Failed: an overlay names no disk of the VM.
    """
    root = Element("domainsnapshot")
    listed = SubElement(root, "disks")
    for disk in _all(disks, overlays):
        if disk.target not in overlays:
            SubElement(listed, "disk", name=disk.target, snapshot="no")
            continue
        entry = SubElement(listed, "disk", name=disk.target, snapshot="external", type="file")
        SubElement(entry, "driver", type=IMAGE_FORMAT)
        SubElement(entry, "source", file=overlays[disk.target])
    return ElementTree.tostring(root, encoding="unicode")


def _all(disks: Iterable[DiskFacts], wanted: Mapping[str, str]) -> tuple[DiskFacts, ...]:
    known = tuple(disks)
    missing = set(wanted) - {disk.target for disk in known}
    if missing:
        raise Failed(Reason.DISK_NOT_FOUND, f"The VM has no disk {', '.join(sorted(missing))} any more.")
    return known
