"""What must hold after every fault, whatever became of the backup."""

import fcntl
import json
from pathlib import Path

from fault.backup import Backup
from fault.machine import digest, patiently
from fault.stage import PLAIN
from testbed.images import qemu_img, sequence_numbers


def assert_vm_as_before(backup: Backup) -> None:
    seen = backup.machine.portrait()
    assert backup.is_as_before(seen), f"not as before: {seen} instead of {backup.before}"
    if not backup.qemu_may_change:
        assert seen.qemu_pid == backup.before.qemu_pid
    if seen.state != "running":
        return
    assert_guest_writes(backup)
    failed = backup.machine.writes()[1] - (0 if seen.qemu_pid != backup.before.qemu_pid else backup.failed_before)
    if not backup.guest_writes_may_fail:
        assert not failed, f"{failed} writes of the guest failed"
        assert not backup.machine.trouble(), backup.machine.trouble()
    if backup.machine.agent_answers():
        assert not backup.machine.frozen(), "the guest is frozen"


def assert_guest_writes(backup: Backup) -> None:
    done = backup.machine.writes()[0]
    assert patiently(lambda: backup.machine.writes()[0] > done, 30), "the guest does not write any more"


def assert_nothing_left(backup: Backup) -> None:
    left = [*backup.machine.disks.glob(".vmbackup.*.overlay"), *backup.top.rglob(".*.partial")]
    assert not left, f"left behind: {left}"
    assert digest(backup.machine.golden) == backup.machine.golden_digest, "the golden image was written to"
    assert backup.machine.foreign.read_text() == "not ours\n"
    assert (backup.stage.directory(PLAIN) / "foreign.txt").read_text() == "not ours\n"
    assert {path: digest(Path(path)) for path in backup.stage.old_set} == backup.stage.old_set, "an old set was touched"
    assert backup.watch is not None
    assert not backup.watch.used_again, f"names used again: {backup.watch.used_again}"
    with (backup.stage.state / "locks" / f"{backup.machine.vm.uuid}.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when somebody holds it


def assert_sets(backup: Backup, count: int, told: str | None) -> None:
    found = backup.sets()
    assert len(found) == count, f"{len(found)} sets instead of {count}: {found}"
    for path in found:
        assert str(path) == f"{backup.top}/{told}"
        assert_good(backup, path)


def assert_good(backup: Backup, path: Path) -> None:
    """Open, check, and see that both disks are of one moment, between the beginning and now."""
    for disk in json.loads((path / "manifest.json").read_text())["disks"]:
        if disk["format"] == "qcow2":
            qemu_img("check", "-q", "-f", "qcow2", str(path / disk["file"]))
    a, b = sequence_numbers(next(path.glob("vda.*")), next(path.glob("vdb.*")))
    assert b <= a <= b + 1, f"two moments in one set: {a} on vda, {b} on vdb"
    assert backup.numbers_before[0] <= a, f"{a} is older than the backup, which began at {backup.numbers_before[0]}"
    if (now := backup.machine.numbers()[0]) > 0:
        assert a <= now, f"{a} was never written, the guest is at {now}"
