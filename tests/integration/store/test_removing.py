"""Sets are removed from real file systems, also from one that hangs, is read-only or full."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from fakes.apiserver import FakeApiServer
from fakes.waiting import eventually
from integration.store.conftest import call
from unit.store.published import make_set
from vmbackup.agent import removals as room
from vmbackup.agent.removals import Removals
from vmbackup.api.removal import Removal
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import Resources
from vmbackup.store.removal_records import RemovalRecords

Mount = Callable[[str, str], Path]
PATIENCE_SECONDS = 30.0


def site(state: Path, *locations: Path) -> tuple[Removals, RemovalRecords]:
    """Return an agent's removals with one recorded removal for each location."""
    records = RemovalRecords(state)
    for number, path in enumerate(locations):
        fields = {
            "uid": f"uid-{number}",
            "set_uid": f"uid-{number}",
            "namespace": "team-a",
            "name": f"b{number}",
            "vm": "web",
            "since": time.time(),
        }
        records.record(Removal(**fields, location=path.name, location_path=str(path)))  # type: ignore[arg-type]
    return Removals(Resources(cast(Client, FakeApiServer())), records, "n1"), records


def test_frozen_file_system_holds_up_no_other_and_goes_on_when_it_thaws(
    mount: Mount, tmp_path: Path, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ANSWER_SECONDS", 0.5)
    hung = mount("ext4", "16M")
    sets = make_set(hung, "uid-0"), make_set(location, "uid-1")
    call("sync")
    removals, records = site(tmp_path / "state", hung, location)
    call("fsfreeze", "--freeze", hung)
    try:
        for _ in range(2):
            removals.look()
        eventually(lambda: not sets[1].exists(), "the other location is served", PATIENCE_SECONDS)
        assert sets[0].exists()
        assert [removal.uid for removal in records.removals()] == ["uid-0"]
    finally:
        call("fsfreeze", "--unfreeze", hung)
    eventually(lambda: not records.removals(), "removed after the thaw", PATIENCE_SECONDS)
    assert list((hung / "team-a" / "web").iterdir()) == []


def test_read_only_file_system_is_tried_again(mount: Mount, tmp_path: Path) -> None:
    location = mount("ext4", "16M")
    there = make_set(location, "uid-0")
    removals, records = site(tmp_path / "state", location)
    call("mount", "-o", "remount,ro", location)
    removals.look()
    assert there.exists()
    assert len(records.removals()) == 1
    call("mount", "-o", "remount,rw", location)
    removals.look()
    eventually(lambda: not records.removals(), "removed", PATIENCE_SECONDS)
    assert not there.exists()


def fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as image:
        while True:
            image.write(bytes(1 << 16))


def test_full_file_system_can_be_emptied(mount: Mount, tmp_path: Path) -> None:
    location = mount("ext4", "16M")
    there = make_set(location, "uid-0")
    fill(there / "vda.qcow2")
    removals, records = site(tmp_path / "state", location)
    removals.look()
    eventually(lambda: not records.removals(), "removed", PATIENCE_SECONDS)
    assert not there.exists()


def test_unmounted_file_system_is_not_taken_for_an_empty_one(mount: Mount, tmp_path: Path) -> None:
    location = mount("ext4", "16M")
    make_set(location, "uid-0")
    removals, records = site(tmp_path / "state", location)
    call("umount", location)
    removals.look()
    assert len(records.removals()) == 1
    call("mount", "-o", "loop", location.with_name("ext4.disk"), location)
    removals.look()
    eventually(lambda: not records.removals(), "removed", PATIENCE_SECONDS)
    assert list((location / "team-a" / "web").iterdir()) == []
