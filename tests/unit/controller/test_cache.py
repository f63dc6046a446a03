"""The cache: never older than it was, and awake only for what matters."""

from typing import Any

from fakes.objects import backup_body
from vmbackup.cluster.resources import NAMESPACE, VMBACKUP
from vmbackup.controller.cache import Cache


def make() -> tuple[Cache, list[int]]:
    wakes: list[int] = []
    return Cache(lambda: wakes.append(1)), wakes


def body(version: int, **parts: Any) -> dict[str, Any]:
    return backup_body(metadata={"resourceVersion": str(version)}, **parts)


def test_a_late_event_does_not_undo_what_is_known() -> None:
    cache, _ = make()
    cache.put(VMBACKUP, body(10, status={"node": "n1", "phase": "Assigned"}))
    cache.put(VMBACKUP, body(9))
    assert cache.backups()[0].status.node == "n1"


def test_progress_wakes_nobody() -> None:
    cache, wakes = make()
    cache.put(VMBACKUP, body(1, status={"node": "n1", "phase": "Copying"}))
    wakes.clear()
    cache.put(VMBACKUP, body(2, status={"node": "n1", "phase": "Copying", "progress": {"percent": 7}}))
    assert not wakes
    assert cache.versions(VMBACKUP) == {"uid-team-a-b1": "2"}


def test_a_change_of_phase_a_cancellation_and_a_deletion_wake() -> None:
    cache, wakes = make()
    changes: list[dict[str, Any]] = [{"status": {"phase": "Copying"}}, {"spec": {"cancel": True}}]
    for version, change in enumerate(changes, 1):
        cache.put(VMBACKUP, body(version, **change))
    assert len(wakes) == 2
    cache.put(VMBACKUP, backup_body(metadata={"resourceVersion": "9", "deletionTimestamp": "2026-09-21T14:14:00Z"}))
    assert len(wakes) == 3
    cache.drop(VMBACKUP, "uid-team-a-b1")
    assert len(wakes) == 4


def test_finished_backups_are_kept_small() -> None:
    cache, _ = make()
    told = {"phase": "Done", "outcome": "Succeeded", "disks": [{"name": f"vd{n}", "state": "Copied"} for n in "abc"]}
    cache.put(VMBACKUP, body(1, status=told))
    entry = cache.entry(VMBACKUP, "uid-team-a-b1")
    assert entry is not None
    assert set(entry.body) == {"metadata"}
    assert cache.backups() == []
    assert [one.metadata.name for one in cache.finished()] == ["b1"]


def test_an_object_of_a_newer_version_is_left_alone_and_does_not_stop_the_rest() -> None:
    cache, _ = make()
    strange = backup_body("strange", metadata={"uid": "s"}, spec={"source": {"kind": "Starship", "name": "x"}})
    cache.replace(VMBACKUP, [strange, body(1)])
    assert [one.metadata.name for one in cache.backups()] == ["b1"]
    assert cache.versions(VMBACKUP)["s"] == "1", "it was heard of: the watch is not silent"


def test_what_is_not_listed_is_gone() -> None:
    cache, _ = make()
    cache.put(VMBACKUP, body(1))
    cache.replace(VMBACKUP, [])
    assert cache.backups() == []


def test_labels_of_namespaces_are_known() -> None:
    cache, _ = make()
    cache.put(
        NAMESPACE, {"metadata": {"name": "team-a", "uid": "n", "resourceVersion": "1", "labels": {"tier": "gold"}}}
    )
    assert cache.namespaces() == {"team-a": {"tier": "gold"}}
