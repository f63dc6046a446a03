"""Sets are removed whole, after crashes too; what is not ours, in use or the last one stays."""

import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from unit.store.published import make_set
from vmbackup.api.removal import Removal
from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.store import holds, removing
from vmbackup.store.removal_records import RemovalRecords
from vmbackup.store.removing import remove_set, trash_name


def removal(location: Path, uid: str = "one", **more: Any) -> Removal:
    fields = {
        "uid": uid,
        "set_uid": uid,
        "namespace": "team-a",
        "name": "nightly",
        "vm": "web",
        "location": "here",
        "since": 0.0,
    }
    return Removal(**{**fields, "location_path": str(location), **more})


def test_removed_with_all_that_is_in_it_and_nothing_else(location: Path) -> None:
    gone, stays = make_set(location, "one"), make_set(location, "two")
    (gone / "inner").mkdir()
    (gone / "inner" / "file").touch()
    assert remove_set(removal(location))
    assert [path.name for path in gone.parent.iterdir()] == [stays.name]
    assert not remove_set(removal(location))


def test_links_are_removed_as_links(location: Path, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").touch()
    directory = make_set(location, "one")
    (directory / "leads-away").symlink_to(outside)
    (directory / "vdb.raw").symlink_to(outside / "file")
    assert remove_set(removal(location))
    assert (outside / "file").exists()


def test_a_directory_that_links_elsewhere_is_no_set(location: Path, tmp_path: Path) -> None:
    elsewhere = make_set(tmp_path / "elsewhere", "one")
    (location / "team-a" / "web").mkdir(parents=True)
    (location / "team-a" / "web" / "link").symlink_to(elsewhere)
    assert not remove_set(removal(location))
    assert (elsewhere / "vda.qcow2").exists()


@pytest.mark.parametrize(
    "manifest", [{"backupNamespace": "team-b"}, {"vm": "db"}, {"backupUid": "other"}, {"schemaVersion": 2}]
)
def test_what_says_to_be_somebody_elses_stays(location: Path, manifest: dict[str, Any]) -> None:
    directory = make_set(location, "one", **manifest)
    assert not remove_set(removal(location))
    assert (directory / "vda.qcow2").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"backupUid": "one"}', "[" * 100000])
def test_a_manifest_that_is_none_is_no_set(location: Path, text: str) -> None:
    directory = make_set(location, "one")
    (directory / "manifest.json").write_text(text)
    assert not remove_set(removal(location))
    assert (directory / "vda.qcow2").exists()


def test_trash_that_is_not_ours_stays_and_is_told(location: Path) -> None:
    directory = make_set(location, "two")
    trash = directory.rename(directory.parent / trash_name("x", "one"))
    with pytest.raises(Failed, match="does not belong to VMBackup team-a/nightly"):
        remove_set(removal(location))
    assert (trash / "vda.qcow2").exists()


class Crash(Exception):  # noqa: N818 - not an error
    pass


def test_killed_at_every_step_it_is_found_again_and_goes_on(location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call that changes something may be the last one before the power goes."""
    for last in range(30):
        directory = make_set(location, "one")
        calls = iter(range(last))

        def dying(real: Any, calls: Any = calls) -> Any:
            def call(*arguments: Any, **keywords: Any) -> Any:
                if next(calls, None) is None:
                    raise Crash
                return real(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in ("rename", "unlink", "rmdir", "fsync"):
                patch.setattr(os, name, dying(getattr(os, name)))
            try:
                remove_set(removal(location))
            except Crash:
                pass
            else:
                break
        # What is visible is either the whole set or nothing.
        visible = [path for path in directory.parent.iterdir() if not path.name.startswith(".")]
        assert all((path / "vda.qcow2").exists() and (path / "manifest.json").exists() for path in visible)
        left = list(directory.parent.iterdir())
        assert remove_set(removal(location)) == bool(left)
        assert list(directory.parent.iterdir()) == []
    else:
        raise AssertionError("never came to its end")
    assert last > 5


def test_a_file_system_that_is_not_mounted_is_waited_for(location: Path) -> None:
    with pytest.raises(NotYet, match="is the file system mounted"):
        remove_set(removal(location))
    with pytest.raises(NotYet, match="does not exist on this node"):
        remove_set(removal(location / "away"))


def test_a_set_that_a_restore_needs_stays(location: Path) -> None:
    directory = make_set(location, "one")
    opened = os.open(directory, os.O_RDONLY)
    holds.hold(opened, "restore-uid", "team-a/back", "n1")
    with pytest.raises(NotYet, match="VMRestore team-a/back on node n1 needs it"):
        remove_set(removal(location))
    assert (directory / "vda.qcow2").exists()
    holds.release(opened, "restore-uid")
    os.close(opened)
    assert remove_set(removal(location))


def test_a_hold_that_comes_in_the_last_moment_brings_the_set_back(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_set(location, "one")
    looked = removing._check_unused

    def then_held(at: int, name: str, manifest: Any) -> None:
        looked(at, name, manifest)
        opened = os.open(directory, os.O_RDONLY)
        holds.hold(opened, "restore-uid", "team-a/back", "n1")
        os.close(opened)

    monkeypatch.setattr(removing, "_check_unused", then_held)
    with pytest.raises(NotYet, match="is in use"):
        remove_set(removal(location))
    assert (directory / "vda.qcow2").exists()
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_set_that_a_vm_runs_on_stays(location: Path) -> None:
    directory = make_set(location, "one")
    with (directory / "vda.qcow2").open("rb") as image:
        # As QEMU does for an image that it reads: a shared lock on byte 100 (permission "consistent read").
        fcntl.fcntl(image, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 100, 1, 0))
        with pytest.raises(NotYet, match=r"a process has vda\.qcow2 open"):
            remove_set(removal(location))
    assert remove_set(removal(location))


def test_retention_never_removes_the_last_good_set(location: Path) -> None:
    """The records may say that newer ones are there; the files say otherwise."""
    old = make_set(location, "one")
    newer = make_set(location, "two", "2026-09-23T02:30:00.000Z")
    (newer / "vda.qcow2").write_text("")
    with pytest.raises(Refused, match="no newer set of VM web is whole"):
        remove_set(removal(location, spare_last=True))
    assert (old / "vda.qcow2").exists()
    (newer / "vda.qcow2").write_text("image")
    assert remove_set(removal(location, spare_last=True))


def test_records_survive_and_broken_ones_are_kept_aside(tmp_path: Path) -> None:
    records = RemovalRecords(tmp_path)
    records.record(removal(tmp_path, "one"))
    records.record(removal(tmp_path, "two"))
    (tmp_path / "removals" / "two.json").write_text("{")
    assert [one.uid for one in RemovalRecords(tmp_path).removals()] == ["one"]
    assert (tmp_path / "removals" / "two.broken").exists()
    records.forget("one")
    assert not RemovalRecords(tmp_path).removals()
