"""Which method takes a backup, and why: by the daemon, by the wish, by the disks."""

from dataclasses import replace
from typing import Any

import pytest

from unit.core.scene import NEW_HOST, OLD_HOST, a_disk, spec
from vmbackup.api.vmbackup import Method
from vmbackup.core.facts import DiskFacts, HostFacts
from vmbackup.core.method import choose, disk_obstacle, limit_obstacle, push_obstacle, snapshot_obstacle, version
from vmbackup.errors import Refused

MONITOR = replace(NEW_HOST, libvirt_version=11_003_000, may_use_monitor=True)
NEWEST = replace(MONITOR, may_use_monitor=False)
APPARMOR = replace(NEW_HOST, confined_by_apparmor=True)
OLD_APPARMOR = replace(OLD_HOST, confined_by_apparmor=True)
SHARED = (a_disk(), a_disk(target="vdb", shareable=True))
LIMIT = {"maxBytesPerSecond": "10Mi"}


def chosen(method: str, host: HostFacts, *disks: DiskFacts, **parts: Any) -> tuple[Method, str]:
    return choose(spec(method=method, **parts), host, "demo_vm1", disks or (a_disk(),))


@pytest.mark.parametrize(
    ("number", "text"),
    [(9_000_000, "9.0.0"), (7_002_000, "7.2.0"), (11_003_012, "11.3.12"), (12_001_000, "12.1.0"), (0, "0.0.0")],
)
def test_version_is_shown_as_people_write_it(number: int, text: str) -> None:
    assert version(number) == text


@pytest.mark.parametrize(
    ("libvirt", "qemu", "can"),
    [
        (7_002_000, 4_002_000, True),
        (7_001_999, 8_000_000, False),
        (7_002_000, 4_001_999, False),
        (12_005_000, 10_000_000, True),
        (0, 0, False),
    ],
)
def test_push_needs_the_release_that_brought_it(libvirt: int, qemu: int, can: bool) -> None:
    assert (push_obstacle(HostFacts(libvirt, qemu)) == "") is can


@pytest.mark.parametrize(
    ("libvirt", "monitor", "wish", "can"),
    [
        (9_000_000, False, LIMIT, True),
        (9_000_999, False, LIMIT, True),
        (9_001_000, False, LIMIT, False),
        (11_003_000, False, LIMIT, False),
        (11_003_000, True, LIMIT, True),
        (11_003_000, False, {}, True),
    ],
)
def test_speed_limit_needs_a_daemon_that_lets_it_through(
    libvirt: int, monitor: bool, wish: dict[str, Any], can: bool
) -> None:
    host = HostFacts(libvirt, 8_000_000, may_use_monitor=monitor)
    assert (limit_obstacle(host, spec(**wish)) == "") is can


@pytest.mark.parametrize(
    ("libvirt", "confined", "can"),
    [(12_000_999, True, False), (12_001_000, True, True), (7_000_000, False, True), (9_000_000, True, False)],
)
def test_apparmor_forbids_the_commit_until_the_release_that_mended_it(libvirt: int, confined: bool, can: bool) -> None:
    host = HostFacts(libvirt, 8_000_000, confined_by_apparmor=confined)
    assert (snapshot_obstacle(host, (a_disk(),)) == "") is can


def test_shareable_disk_hinders_a_snapshot_only_when_it_is_among_the_chosen() -> None:
    assert "vdb" in snapshot_obstacle(NEW_HOST, SHARED)
    assert snapshot_obstacle(NEW_HOST, SHARED[:1]) == ""


@pytest.mark.parametrize(
    ("host", "disks", "wish", "method", "why"),
    [
        (NEW_HOST, (), {}, Method.PUSH, "9.0.0"),
        (OLD_HOST, (), {}, Method.SNAPSHOT, "7.2.0"),
        (NEW_HOST, SHARED, {}, Method.PUSH, "9.0.0"),
        (NEWEST, (), LIMIT, Method.SNAPSHOT, "slowed down"),
        (MONITOR, (), LIMIT, Method.PUSH, "11.3.0"),
        (APPARMOR, (), {}, Method.PUSH, "9.0.0"),
    ],
    ids=["new", "old", "shareable", "limit", "limit by monitor", "apparmor"],
)
def test_auto_takes_what_works_and_says_why(
    host: HostFacts, disks: tuple[DiskFacts, ...], wish: dict[str, Any], method: Method, why: str
) -> None:
    taken, reason = chosen("Auto", host, *disks, **wish)
    assert taken is method
    assert why in reason


@pytest.mark.parametrize(
    ("method", "host", "disks", "wish", "reason", "words"),
    [
        ("Auto", OLD_HOST, SHARED, {}, "MethodUnsupported", ("7.2.0", "vdb is shareable")),
        ("Auto", OLD_APPARMOR, (), {}, "MethodUnsupported", ("7.2.0", "AppArmor")),
        ("Auto", NEWEST, SHARED, LIMIT, "MethodUnsupported", ("slowed down", "vdb is shareable")),
        ("Push", OLD_HOST, (), {}, "MethodUnsupported", ("7.0.0", "Auto or Snapshot")),
        ("Push", NEWEST, (), LIMIT, "SpeedLimitUnsupported", ("11.3.0", "no maxBytesPerSecond")),
        ("Snapshot", NEW_HOST, SHARED, {}, "MethodUnsupported", ("vdb", "method Push")),
        ("Snapshot", APPARMOR, (), {}, "MethodUnsupported", ("12.1.0", "method Push")),
    ],
)
def test_wish_that_cannot_be_served_is_refused_with_what_to_do(
    method: str,
    host: HostFacts,
    disks: tuple[DiskFacts, ...],
    wish: dict[str, Any],
    reason: str,
    words: tuple[str, ...],
) -> None:
    with pytest.raises(Refused) as refusal:
        chosen(method, host, *disks, **wish)
    assert refusal.value.reason == reason
    assert all(word in refusal.value.message for word in words), refusal.value.message


@pytest.mark.parametrize(
    ("method", "host", "disks"), [("Push", NEW_HOST, SHARED), ("Snapshot", OLD_HOST, ()), ("Snapshot", NEW_HOST, ())]
)
def test_wish_that_can_be_served_is_followed(method: str, host: HostFacts, disks: tuple[DiskFacts, ...]) -> None:
    assert chosen(method, host, *disks) == (Method(method), "asked for")


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (a_disk(), ""),
        (a_disk(kind="block", source="/dev/vg/vm1", format="raw"), ""),
        (a_disk(device="cdrom", source="", kind=""), "the drive is empty"),
        (a_disk(source="", kind=""), "the disk has no source"),
        (a_disk(device="cdrom"), "removable medium"),
        (a_disk(device="floppy"), "removable medium"),
        (a_disk(readonly=True), "read-only"),
        (a_disk(transient=True), "transient"),
        (a_disk(encrypted=True), "encrypted"),
        (a_disk(kind="network", source="rbd:pool/vm1"), "a network disk"),
        (a_disk(device="lun", kind="block", source="/dev/sdb"), "a block disk"),
        (a_disk(kind="vhostuser", source="/run/vhost.sock"), "a vhostuser disk"),
        (a_disk(format="vmdk"), "image format vmdk"),
        (a_disk(format=""), "image format unknown"),
        (a_disk(target="vd.a"), "target name"),
        (a_disk(target="../../etc"), "target name"),
        (a_disk(target="vd a"), "target name"),
        (a_disk(target="vd_A-1"), ""),
    ],
)
def test_why_a_disk_is_not_part_of_a_backup(disk: DiskFacts, words: str) -> None:
    found = disk_obstacle(disk)
    assert words in found
    assert bool(found) is bool(words)
