"""The agent removes sets: recorded first, told, done later when the location is away; a hung one hinders nobody."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer, failing
from fakes.objects import T0, backup_body, location
from fakes.waiting import eventually
from vmbackup.agent import removals as room
from vmbackup.agent.removals import Removals
from vmbackup.api import names
from vmbackup.api.removal import Removal
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import LOCATION, VMBACKUP, Resources
from vmbackup.errors import NotYet, Refused
from vmbackup.store.removal_records import RemovalRecords


class Site:
    """An agent's removals on an API server in memory. `answers`: what becomes of the removal of a UID's set."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.state = FakeApiServer(), state
        self.answers: dict[str, Any] = {}
        self.tried: list[str] = []
        monkeypatch.setattr(room, "remove_set", self._remove)
        monkeypatch.setattr(room, "ANSWER_SECONDS", 0.05)
        self.start()
        for name in ("nightly", "other"):
            body = location(name, directory={"path": f"/srv/{name}"}).model_dump(mode="json", by_alias=True)
            self.server.put(LOCATION.path(name), body)

    def start(self) -> None:
        """Begin anew, as a restarted agent does."""
        self.records = RemovalRecords(self.state)
        resources = Resources(cast(Client, self.server))
        self.removals = Removals(resources, self.records, "n1", now=lambda: T0)

    def _remove(self, removal: Removal) -> bool:
        self.tried.append(removal.uid)
        answer = self.answers.get(removal.uid, True)
        if isinstance(answer, threading.Event):
            answer.wait()
            return True
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    def delete(self, name: str, at: str = "nightly", **metadata: Any) -> None:
        """Let the watch tell of a finished backup that was deleted together with its set."""
        body = backup_body(
            name,
            spec={"deletionPolicy": "Delete", "location": at},
            status={"node": "n1", "phase": "Done", "outcome": "Succeeded"},
            metadata={"finalizers": [names.FINALIZER_SET], "deletionTimestamp": "2026-09-21T14:13:20Z"} | metadata,
        )
        self.server.put(VMBACKUP.path(name, "team-a"), body)
        self.removals.heard(VMBackup.parse(body), gone=False)

    def look(self, *done: str) -> None:
        """Take one look, and wait until the removals of these backups were tried."""
        self.removals.look()
        eventually(lambda: {f"uid-team-a-{name}" for name in done} <= set(self.tried), f"tried {done}")

    def condition(self, name: str) -> tuple[str, str, str]:
        conditions = self.server.objects[VMBACKUP.path(name, "team-a")]["status"].get("conditions") or [{}]
        return tuple(conditions[0].get(key, "") for key in ("status", "reason", "message"))  # type: ignore[return-value]

    def reason(self, name: str) -> str:
        return self.condition(name)[1]

    def recorded(self) -> list[str]:
        return [removal.name for removal in self.records.removals()]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path, monkeypatch)
    yield site
    for answer in site.answers.values():
        if isinstance(answer, threading.Event):
            answer.set()


def test_removed_told_and_forgotten(site: Site) -> None:
    site.delete("b1")
    site.look("b1")
    eventually(lambda: site.reason("b1") == "Removed")
    eventually(lambda: site.recorded() == [])


def test_a_backup_that_keeps_its_set_is_left_alone(site: Site) -> None:
    body = backup_body("b1", status={"node": "n1", "phase": "Done", "outcome": "Succeeded"})
    site.removals.heard(VMBackup.parse(body), gone=False)
    site.look()
    assert site.tried == []


def test_a_location_that_is_away_is_recorded_and_done_later_without_the_resource(site: Site) -> None:
    site.answers["uid-team-a-b1"] = Refused("LocationUnusable", "/srv/nightly does not exist on this node")
    site.delete("b1")
    site.look("b1")
    eventually(lambda: site.reason("b1") == "RemovalRecorded")
    assert "recorded on node n1" in site.condition("b1")[2]
    site.server.remove(VMBACKUP.path("b1", "team-a"))  # the controller let it go
    site.start()
    assert site.recorded() == ["b1"]
    site.answers.clear()
    site.look("b1")
    eventually(lambda: site.recorded() == [])


def test_a_location_that_hangs_is_told_and_holds_up_no_other(site: Site) -> None:
    hung = site.answers["uid-team-a-hung"] = threading.Event()
    site.delete("hung", "nightly")
    site.delete("well", "other")
    site.look("hung", "well")
    eventually(lambda: site.reason("well") == "Removed")
    eventually(lambda: site.reason("hung") == "RemovalRecorded")
    assert "does not answer" in site.condition("hung")[2]
    site.look()
    assert site.tried.count("uid-team-a-hung") == 1, "one thread hangs there, not one more each time"
    hung.set()
    eventually(lambda: site.reason("hung") == "Removed")


def test_nothing_is_removed_before_it_is_recorded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_removal: Removal) -> None:
        raise NotYet("StoreError", "disk full")

    monkeypatch.setattr(site.records, "record", full)
    site.delete("b1")
    site.look()
    assert (site.tried, site.reason("b1")) == ([], "")
    monkeypatch.undo()


def test_the_end_is_told_although_the_api_server_was_away(site: Site) -> None:
    site.delete("b1")
    site.server.trouble = failing(2, method="PATCH")
    for _ in range(3):
        site.look("b1")
        eventually(lambda: not any(thread.is_alive() for thread in site.removals._working.values()))
    assert site.reason("b1") == "Removed"
    assert site.recorded() == []


def test_the_last_good_set_is_spared_only_from_retention(site: Site) -> None:
    by = {"annotations": {names.ANNOTATION_REMOVED_BY: "retention of schedule nightly: last"}}
    site.delete("b1", **by)
    site.answers["uid-team-a-b1"] = NotYet("SetInUse", "a VM runs on it")
    site.delete("b2")
    site.answers["uid-team-a-b2"] = NotYet("SetInUse", "a VM runs on it")
    site.look("b1", "b2")
    assert {removal.name: removal.spare_last for removal in site.records.removals()} == {"b1": True, "b2": False}


def test_another_resource_of_the_name_is_told_nothing(site: Site) -> None:
    site.delete("b1")
    site.server.change(VMBACKUP.path("b1", "team-a"), metadata={"uid": "another"})
    site.look("b1")
    eventually(lambda: site.recorded() == [])
    assert site.reason("b1") == ""
