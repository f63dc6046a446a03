"""The XML that we ask libvirt with, against golden files: what is sent is what a reader of tests/data sees."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed
from vmbackup.hypervisor.domain_xml import parse, read_domain, read_push_targets
from vmbackup.hypervisor.request_xml import backup_xml, snapshot_xml

DATA = Path(__file__).parents[2] / "data"
DISKS = read_domain((DATA / "libvirt-9.0" / "00-idle.xml").read_text()).disks
HOSTILE = "/srv/\"'><disk name='vdc' backup='yes'/>&x;.qcow2"


def indented(xml: str) -> str:
    root = parse(xml)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def test_backup_of_two_disks_lists_the_others_as_left_out() -> None:
    xml = backup_xml(DISKS, {"vda": "/srv/set/vda.qcow2", "vdb": "/srv/set/vdb.qcow2"})
    assert indented(xml) == (DATA / "requests" / "backup.xml").read_text()


def test_snapshot_of_two_disks_lists_the_others_as_left_out() -> None:
    xml = snapshot_xml(DISKS, {"vda": "/srv/vda.overlay", "vdb": "/srv/vdb.overlay"})
    assert indented(xml) == (DATA / "requests" / "snapshot.xml").read_text()


def test_path_cannot_break_out_of_its_attribute() -> None:
    assert read_push_targets(backup_xml(DISKS, {"vda": HOSTILE})) == {"vda": HOSTILE}
    named = parse(snapshot_xml(DISKS, {"vda": HOSTILE})).findall("disks/disk[@snapshot='external']")
    assert [disk.find("source").get("file") for disk in named] == [HOSTILE]  # type: ignore[union-attr]


@pytest.mark.parametrize("build", [backup_xml, snapshot_xml])
def test_disk_that_the_vm_has_not_is_named(build: object) -> None:
    with pytest.raises(Failed, match="vdx") as raised:
        build(DISKS, {"vdx": "/srv/vdx"})  # type: ignore[operator]
    assert raised.value.reason == Reason.DISK_NOT_FOUND
