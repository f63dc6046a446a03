"""Reading domain XML that real daemons wrote (tests/data), and XML that nobody should have written."""

from pathlib import Path

import pytest

from vmbackup.core.facts import BlockJob, DiskFacts, Image
from vmbackup.errors import Failed
from vmbackup.hypervisor.domain_xml import (
    LONGEST_XML,
    DomainXML,
    confined_by_apparmor,
    parse,
    read_domain,
    read_owner,
    read_push_targets,
)

DATA = Path(__file__).parents[2] / "data"
RELEASES = ("7.0", "9.0", "11.3")
IMAGES = "/srv/vm/images"
OVERLAY = f"{IMAGES}/work/.vmbackup.5a6b7c8d-0000-4000-8000-000000000001.1.{{}}.overlay"
BASE = Image(f"{IMAGES}/vda.qcow2", "qcow2", "file")
GOLDEN = Image(f"{IMAGES}/golden.qcow2", "qcow2", "file")

every_release = pytest.mark.parametrize("release", RELEASES)


def recorded(release: str, name: str) -> str:
    return (DATA / f"libvirt-{release}" / f"{name}.xml").read_text()


def domain(release: str, name: str) -> DomainXML:
    return read_domain(recorded(release, name))


def disks(release: str, name: str) -> dict[str, DiskFacts]:
    return {disk.target: disk for disk in domain(release, name).disks}


@every_release
def test_idle_vm_shows_every_disk_as_it_is(release: str) -> None:
    seen = domain(release, "00-idle")
    assert (seen.name, seen.uuid) == ("team-a_recorded", "5a6b7c8d-0000-4000-8000-000000000001")
    assert (seen.owner, seen.guest_agent) == ("team-a", False)
    assert {disk.target: disk for disk in seen.disks} == {
        "vda": DiskFacts("vda", source=BASE.path, format="qcow2", backing=(GOLDEN,)),
        "vdb": DiskFacts("vdb", source=f"{IMAGES}/vdb.raw"),
        "vdc": DiskFacts("vdc", source=f"{IMAGES}/vdc.qcow2", format="qcow2", readonly=True),
        "vdd": DiskFacts("vdd", source=f"{IMAGES}/vdd.raw", shareable=True),
        "vde": DiskFacts("vde", kind="network", source="nbd:export"),
        "sda": DiskFacts("sda", device="cdrom", source=f"{IMAGES}/cd.raw", readonly=True),
        "sdb": DiskFacts("sdb", device="cdrom", kind="", readonly=True),
    }


@every_release
def test_overlay_lies_on_the_base_in_the_live_and_the_persistent_definition(release: str) -> None:
    live, inactive = disks(release, "02-overlay"), disks(release, "02-overlay.inactive")
    assert (live["vda"].source, live["vda"].backing) == (OVERLAY.format("vda"), (BASE, GOLDEN))
    assert live["vdb"].backing == (Image(f"{IMAGES}/vdb.raw", "raw", "file"),)
    assert (inactive["vda"].source, inactive["vdb"].source) == (OVERLAY.format("vda"), OVERLAY.format("vdb"))
    assert inactive["vda"].backing[0] == BASE
    assert live["vda"].job is None


@every_release
def test_commit_is_ready_only_when_libvirt_says_so(release: str) -> None:
    assert disks(release, "03-commit")["vda"].job == BlockJob("active-commit", ready=False, mirror_path=BASE.path)
    assert disks(release, "04-ready")["vda"].job == BlockJob("active-commit", ready=True, mirror_path=BASE.path)
    assert disks(release, "04-ready")["vdb"].job is None


@every_release
def test_disk_is_home_after_the_pivot(release: str) -> None:
    for name in ("05-vda-home", "05-vda-home.inactive"):
        assert disks(release, name)["vda"].source == BASE.path
        assert disks(release, name)["vdb"].source == OVERLAY.format("vdb")


@every_release
def test_foreign_copy_is_not_taken_for_a_commit(release: str) -> None:
    assert disks(release, "06-foreign-copy")["vda"].job == BlockJob(
        "copy", ready=True, mirror_path=f"{IMAGES}/work/copy.qcow2"
    )


@pytest.mark.parametrize("release", ["9.0", "11.3"])
def test_push_changes_no_disk_and_names_its_targets(release: str) -> None:
    assert disks(release, "01-push") == disks(release, "00-idle")
    assert read_push_targets(recorded(release, "01-push.backup")) == {
        "vda": f"{IMAGES}/work/vda.qcow2",
        "vdb": f"{IMAGES}/work/vdb.qcow2",
    }


def test_pull_backup_has_no_push_targets() -> None:
    xml = (
        "<domainbackup mode='pull'><server transport='unix' socket='/run/x'/><disks>"
        "<disk name='vda' backup='yes' type='file'><scratch file='/s'/></disk></disks></domainbackup>"
    )
    assert read_push_targets(xml) == {}


def one_disk(xml: str) -> DiskFacts:
    seen = read_domain(f"<domain><name>n</name><devices>{xml}</devices></domain>")
    assert len(seen.disks) == 1
    return seen.disks[0]


@pytest.mark.parametrize(
    ("source", "kind", "path"),
    [
        ("type='block'><source dev='/dev/vg/lv'/>", "block", "/dev/vg/lv"),
        ("type='network'><source protocol='rbd' name='pool/image'/>", "network", "rbd:pool/image"),
        ("type='volume'><source pool='default' volume='v'/>", "volume", "default:v"),
        ("type='nvme'><source type='pci' managed='yes' namespace='1'/>", "nvme", "pci:1"),
        ("type='vhostuser'><source type='unix' path='/run/vhost'/>", "vhostuser", "/run/vhost"),
        ("type='dir'><source dir='/srv'/>", "dir", "/srv"),
        ("type='tomorrow'><source thing='x'/>", "tomorrow", "unknown"),
        (">", "", ""),
        ("type='file'><source file=''/>", "", ""),
    ],
)
def test_kinds_of_sources(source: str, kind: str, path: str) -> None:
    disk = one_disk(f"<disk device='disk' {source}<target dev='vda'/></disk>")
    assert (disk.kind, disk.source, disk.format) == (kind, path, "raw")


def test_flags_of_a_disk() -> None:
    disk = one_disk("<disk type='block' device='lun'><source dev='/d'/><transient/><target dev='sda'/></disk>")
    assert (disk.device, disk.transient, disk.readonly, disk.shareable) == ("lun", True, False, False)


def test_connected_guest_agent_is_told_from_other_channels() -> None:
    channel = "<channel type='unix'><target type='virtio' name='{}' state='{}'/></channel>"
    for name, state, expected in (
        ("org.qemu.guest_agent.0", "connected", True),
        ("org.qemu.guest_agent.0", "disconnected", False),
        ("com.redhat.spice.0", "connected", False),
    ):
        assert read_domain(f"<domain><devices>{channel.format(name, state)}</devices></domain>").guest_agent is expected


def test_owner_element_of_somebody_else_is_none_of_ours() -> None:
    xml = "<domain><metadata><o:owner xmlns:o='https://example.com/' namespace='x'/></metadata></domain>"
    assert read_domain(xml).owner is None
    assert read_domain("<domain/>").owner is None


def test_owner_without_a_namespace_is_empty_and_not_absent() -> None:
    assert read_owner("<owner/>") == ""
    assert read_owner("<owner namespace='team-b'/>") == "team-b"


def test_apparmor_is_seen_in_the_capabilities() -> None:
    host = "<capabilities><host><secmodel><model>{}</model></secmodel></host></capabilities>"
    assert confined_by_apparmor(host.format("apparmor"))
    assert not confined_by_apparmor(host.format("none"))


BILLION_LAUGHS = (
    "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>"
)
EXTERNAL = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>"


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS,
        EXTERNAL,
        "<domain>" + "x" * LONGEST_XML + "</domain>",
        "<domain><name>",
        "",
        "\x00",
        "<domain>&undefined;</domain>",
        "<domain><name>\x01</name></domain>",
    ],
)
def test_hostile_xml_is_refused(text: str) -> None:
    with pytest.raises(Failed):
        read_domain(text)


def test_very_deep_xml_is_no_trap() -> None:
    depth = LONGEST_XML // 20
    with pytest.raises(Failed, match="backing files"):
        one_disk(
            "<disk><source file='/a'/><target dev='vda'/>"
            + "<backingStore type='file'>" * 1000
            + "</backingStore>" * 1000
            + "</disk>"
        )
    parse("<a>" * depth + "</a>" * depth)


def test_hostile_names_stay_text() -> None:
    name = "../../etc/passwd\" onload='x' &lt;disk/&gt;"
    disk = one_disk(f"<disk><source file='/srv/{name.replace(chr(39), '&apos;')}'/><target dev='vda'/></disk>")
    assert disk.source == "/srv/../../etc/passwd\" onload='x' <disk/>"


@pytest.mark.parametrize("blank", ["\n", "\t", "\r"])
def test_line_break_in_a_path_is_not_read_as_a_blank(blank: str) -> None:
    """libvirt writes it into the attribute as it is; XML would make a blank of it, the name of another file."""
    disk = one_disk(f"<disk><source file='/srv/a{blank}b'/><target dev='vda'/></disk>")
    assert disk.source == f"/srv/a{blank}b"
