"""Copies and checks of a restore: what is said when they fail, and what they do without."""

import errno
import hashlib
import os
from pathlib import Path
from threading import Event

import pytest

from fakes.places import location
from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import RestoreDisk, RestoreRun
from vmbackup.core.facts import Work
from vmbackup.core.restore_facts import RestoreStoreStep
from vmbackup.core.steps import StartCopy, StartVerification
from vmbackup.store.restore_directories import RestoreDirectories

__all__ = ["location"]
MIB = 1 << 20
CONTENT = b"\x5a" * MIB
ENDED_SECONDS = 60.0


@pytest.fixture
def restore(location: Path, tmp_path: Path) -> RestoreRun:
    """Bring back one raw disk as a file; the working directory is made."""
    (location / "demo/web/set").mkdir(parents=True)
    (location / "demo/web/set/vda.raw").write_bytes(CONTENT)
    images = tmp_path / "images"
    run = RestoreRun.model_validate(
        {
            "uid": "u1",
            "namespace": "demo",
            "name": "again",
            "spec": {"source": {"backup": "b"}, "target": {"disks": {}}},
            "kind": RestoreKind.DISKS,
            "vm": "web",
            "location": "nightly",
            "locationPath": str(location),
            "setPath": "demo/web/set",
            "backupUid": "b1",
            "pointInTime": "2026-11-23T00:00:00Z",
            "imagesPath": str(images),
            "disks": [
                RestoreDisk(
                    target="vda",
                    image="vda.raw",
                    image_format="raw",
                    virtual_bytes=MIB,
                    allocated_bytes=MIB,
                    sha256=hashlib.sha256(CONTENT).hexdigest(),
                    file=f"{images}/demo/again-u1/vda.raw",
                    format="raw",
                ).model_dump(by_alias=True)
            ],
            "startedAt": 0.0,
        }
    )
    Path(run.working_file(run.disks[0])).parent.mkdir(parents=True)
    return run


def work(run: RestoreRun, step: RestoreStoreStep) -> Work:
    """Return how the work of a step has ended."""
    over = Event()
    store = RestoreDirectories(wake=over.set)
    store.perform(run, step)
    assert over.wait(ENDED_SECONDS)
    return store.observe(run).works["vda"]


def test_full_file_system_of_the_images_is_named_not_the_location_alone(
    restore: RestoreRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.copy_file_range", full)
    seen = work(restore, StartCopy("vda"))
    assert seen.state == "failed"
    assert f"to {restore.working_file(restore.disks[0])}: No space left on device" in seen.error


def test_copy_is_checked_while_the_location_is_away(restore: RestoreRun) -> None:
    """An absent location says nothing about the copy; the restore must not fail its verification for it."""
    assert work(restore, StartCopy("vda")).state == "done"
    os.rename(restore.location_path, f"{restore.location_path}.away")
    seen = work(restore, StartVerification("vda"))
    assert seen.state == "done", seen.error
