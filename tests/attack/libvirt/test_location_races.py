"""Somebody swaps directories of the location for links while a backup runs on real libvirt.

libvirt opens the target of a push by its path, so what stands on that path must not be in an attacker's hands.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from integration.libvirt.engine import Hook
from integration.libvirt.releases import methods
from integration.libvirt.rig import NAMESPACE, Rig
from integration.libvirt.sets import assert_published
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome

Unprivileged = Callable[[str], None]


def swapper(location: Path, outside: Path) -> str:
    """Return a program that tries without end to put links in the place of every directory of a location."""
    return f"""
        import itertools, os
        from contextlib import suppress
        for number in itertools.count():
            for top, directories, files in os.walk({str(location)!r}):
                for name in (*directories, *files, "team-a", "vda.qcow2"):
                    path = os.path.join(top, name)
                    with suppress(OSError):
                        os.rename(path, path + ".away")
                    with suppress(OSError):
                        os.symlink({str(outside)!r}, path)
                    with suppress(OSError):
                        os.unlink(path)
        """


@methods
def test_user_of_the_node_swaps_whatever_he_can_while_a_backup_runs(
    rig: Rig, outside: Path, unprivileged: Unprivileged, method: str
) -> None:
    unprivileged(swapper(rig.location, outside))
    vm = rig.vm()
    before = vm.portrait()
    for _ in range(2):
        run = rig.run(vm, method=method)
        assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert [path.name for path in rig.location.iterdir()] == [NAMESPACE]
    assert len(rig.sets()) == 2
    assert list(outside.iterdir()) == []
    assert vm.portrait() == before


@methods
@pytest.mark.parametrize(("mode", "where"), [(0o777, "location"), (0o1777, "location"), (0o777, "above")])
def test_location_that_every_user_can_write_is_refused(
    rig: Rig, outside: Path, unprivileged: Unprivileged, method: str, mode: int, where: str
) -> None:
    """There the same program would lead the guest's data out of the location (tried on libvirt 9.0)."""
    rig.location = rig.location / "inner"
    rig.location.mkdir()
    open_to_all = rig.location if where == "location" else rig.location.parent
    open_to_all.chmod(mode)
    unprivileged(swapper(open_to_all, outside))
    vm = rig.vm()
    before = vm.portrait()
    run = rig.run(vm, method=method)
    assert (run.outcome, run.began) == (Outcome.REFUSED, False)
    assert run.failure is not None
    assert run.failure.reason == "LocationUnusable"
    assert vm.portrait() == before
    assert list(outside.iterdir()) == []
    open_to_all.chmod(0o755)


def test_sticky_directory_above_a_location_is_no_danger(rig: Rig, outside: Path, unprivileged: Unprivileged) -> None:
    above = rig.place / "like-var-tmp"
    above.mkdir()
    above.chmod(0o1777)
    rig.location = above / "location"
    rig.location.mkdir(mode=0o755)
    unprivileged(swapper(above, outside))
    vm = rig.vm()
    run = rig.run(vm, method="Push")
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    assert list(outside.iterdir()) == []


# Working directory or the one above it, in the hands of another root before, during and after the copy.
CASES = [
    ("Push", "before BeginPush", "working"),
    ("Push", "after BeginPush", "vm"),
    ("Snapshot", "before StartCopy", "working"),
    ("Snapshot", "before Publish", "vm"),
]


def swap_at(wanted: str, rig: Rig, outside: Path, level: str) -> Hook:
    """Put a link in the place of a directory once, with the rights of another root, as on a shared NFS."""

    def swap(moment: str, run: Run) -> None:
        paths = {"namespace": NAMESPACE, "vm": f"{NAMESPACE}/{run.vm}", "working": run.partial_path}
        path = rig.location / paths[level]
        if moment == wanted and run.attempt == 1 and path.is_dir() and not path.is_symlink():
            path.rename(rig.place / "stolen")
            path.symlink_to(outside)

    return swap


@pytest.mark.parametrize(("method", "moment", "level"), CASES)
def test_other_root_swaps_a_directory_at_a_moment(
    rig: Rig, outside: Path, method: str, moment: str, level: str
) -> None:
    """Such a one can spoil the set, but nothing of it counts as a backup, and no file that is there is touched."""
    victims = {name: outside / name for name in ("vda.qcow2", "domain.xml", "manifest.json", ".owner")}
    for path in victims.values():
        path.write_bytes(b"precious")
        path.chmod(0o600)
    vm = rig.vm()
    before = vm.portrait()
    run = rig.backup(vm, hook=swap_at(moment, rig, outside, level), method=method, deadline_seconds=8).end()
    assert run.outcome is not Outcome.SUCCEEDED or assert_published(rig, run)
    assert {name: path.read_bytes() for name, path in victims.items()} == dict.fromkeys(victims, b"precious")
    assert vm.portrait() == before
