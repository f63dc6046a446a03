"""Locations that are not what they should be: refused in words, and nothing is written elsewhere."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.libvirt.machines import same_content, wait_until
from integration.libvirt.releases import methods
from integration.libvirt.rig import NAMESPACE, Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk
from vmbackup.api.vmbackup import Outcome, Phase


@pytest.fixture
def outside(rig: Rig) -> Path:
    """A directory of somebody else's."""
    path = rig.place / "outside"
    path.mkdir()
    (path / "theirs").write_text("keep")
    return path


@pytest.fixture
def mounted_read_only(rig: Rig) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(rig.location)], check=True)
    yield rig.location
    subprocess.run(["umount", str(rig.location)], check=True)


def a_file(rig: Rig, _outside: Path) -> str:
    rig.location.rmdir()
    rig.location.write_text("no directory")
    return "is not a directory"


def a_link(rig: Rig, outside: Path) -> str:
    rig.location.rmdir()
    rig.location.symlink_to(outside)
    return "is a link, and a location may have none"


def below_a_link(rig: Rig, outside: Path) -> str:
    (outside / "inner").mkdir()
    link = rig.place / "link"
    link.symlink_to(outside)
    rig.location = link / "inner"
    return "is a link, and a location may have none"


@methods
@pytest.mark.parametrize("fault", [a_file, a_link, below_a_link])
def test_unusable_location_is_refused(rig: Rig, outside: Path, method: str, fault: Callable[[Rig, Path], str]) -> None:
    vm = rig.vm()
    before = vm.portrait()
    words = fault(rig, outside)
    theirs = sorted(outside.rglob("*"))
    run = rig.run(vm, method=method)
    assert run.outcome is Outcome.REFUSED
    assert run.failure is not None
    assert run.failure.reason == "LocationUnusable"
    assert words in run.failure.message
    assert not run.began
    assert vm.portrait() == before
    assert sorted(outside.rglob("*")) == theirs, "something was written outside of the location"


@methods
def test_location_that_is_missing_is_waited_for_and_never_made(rig: Rig, method: str) -> None:
    """Perhaps it is not mounted yet: that may pass, unlike a file or a link in its place."""
    vm = rig.vm()
    before = vm.portrait()
    rig.location.rmdir()
    backup = rig.backup(vm, method=method)
    wait_until(lambda: "does not exist on this node" in backup.seen.trouble, "the backup waits in words")
    assert backup.phase is Phase.PREPARING
    assert vm.portrait() == before
    assert not rig.location.exists()
    rig.location.mkdir(mode=0o711)
    run = backup.end()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 1)


@methods
def test_location_that_is_mounted_read_only_is_refused(rig: Rig, mounted_read_only: Path, method: str) -> None:
    vm = rig.vm()
    before = vm.portrait()
    run = rig.run(vm, method=method)
    assert (run.outcome, run.began) == (Outcome.REFUSED, False)
    assert run.failure is not None
    assert f"{mounted_read_only} is read-only on this node" in run.failure.message
    assert vm.portrait() == before


@methods
@pytest.mark.parametrize("level", ["namespace", "vm"])
def test_planted_link_inside_the_location_leads_nowhere(rig: Rig, outside: Path, method: str, level: str) -> None:
    vm = rig.vm()
    before = vm.portrait()
    directory = rig.location / NAMESPACE
    if level == "vm":
        directory.mkdir()
        directory /= vm.short_name
    directory.symlink_to(outside)
    run = rig.run(vm, method=method)
    assert run.failure is not None
    assert (run.outcome, run.failure.reason) == (Outcome.REFUSED, "LocationUnusable")
    assert "is a link or not a directory, and was not made by us" in run.failure.message
    assert not run.began
    assert [path.name for path in outside.rglob("*")] == ["theirs"]
    assert directory.is_symlink()
    assert vm.portrait() == before


@methods
def test_location_vanishes_in_mid_copy_and_comes_back(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.large_image() if method == "Push" else rig.image("vda", data_mib=4)))
    before = vm.portrait()
    backup = rig.held_push(vm) if method == "Push" else rig.held_copy(vm, max_bytes_per_second="1Mi")
    away = rig.place / "moved away"
    rig.location.rename(away)
    vm.slow_down(0)
    wait_until(lambda: backup.phase is Phase.DISCARDING, "the attempt is given up, the VM home")
    assert vm.portrait() == before
    away.rename(rig.location)
    run = backup.end()
    assert (run.outcome, run.attempt) == (Outcome.SUCCEEDED, 2)
    assert same_content(assert_published(rig, run) / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


def test_location_vanishes_in_mid_copy_for_good(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=32)))
    before = vm.portrait()
    backup = rig.held_copy(vm)
    away = rig.place / "moved away"
    rig.location.rename(away)
    run = backup.end()
    assert run.outcome is Outcome.FAILED, "Refused would say that the VM was not touched"
    assert run.failure is not None
    assert run.failure.reason == "LocationUnusable"
    assert vm.portrait() == before
    assert not rig.location.exists(), "the location was made anew"
    assert list(rig.place.rglob(".vmbackup.*")) == []


@methods
def test_old_sets_survive_a_failing_new_one(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.large_image() if method == "Push" else rig.image("vda", data_mib=32)))
    run = rig.run(vm, method="Snapshot" if method == "Snapshot" else "Push")
    assert run.outcome is Outcome.SUCCEEDED
    (old,) = rig.sets()
    times = {path.name: path.stat().st_mtime_ns for path in old.iterdir()}
    backup = rig.held_push(vm) if method == "Push" else rig.held_copy(vm)
    backup.cancel()
    assert backup.end().outcome is Outcome.CANCELLED
    assert rig.sets() == [old]
    assert {path.name: path.stat().st_mtime_ns for path in old.iterdir()} == times
    assert rig.debris() == []


def test_two_backups_of_one_vm_are_two_sets(rig: Rig) -> None:
    vm = rig.vm()
    runs = [rig.run(vm, method=method) for method in ("Push", "Snapshot", "Push")]
    assert {run.outcome for run in runs} == {Outcome.SUCCEEDED}
    assert rig.sets() == sorted(rig.location / run.set_path for run in runs)
    assert rig.debris() == []


def test_request_that_was_refused_leaves_an_empty_location(rig: Rig) -> None:
    vm = rig.vm()
    vm.stop()
    with pytest.raises(Exception, match="is not running"):
        rig.run(vm)
    assert_nothing_published(rig)
