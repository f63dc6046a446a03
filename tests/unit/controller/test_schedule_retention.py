"""Retention of a schedule: what would go, what goes, what stays, and what a crash in between leaves."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import T0
from unit.controller.nightly import DAY, DUE, change, child, children, end, status
from vmbackup.api import names
from vmbackup.cluster.errors import APIServerAway
from vmbackup.cluster.resources import VMRESTORE
from vmbackup.core.kstatus import epoch, rfc3339


def test_dry_run_lists_what_would_go_and_why_and_removes_nothing(nightly: Any) -> None:
    made = [child(nightly, days) for days in (1, 2, 3)]
    change(nightly, retention={"keepLast": 1, "dryRun": True})
    nightly.server.calls.clear()
    nightly.schedules.reconcile(T0 + 1)
    report = status(nightly)["retention"]
    assert (report["kept"], report["removable"]) == (1, 2)
    first = report["sets"][0]
    assert (first["name"], first["keep"], first["reasons"]) == (made[1], False, ["last: 1 newer kept"])
    assert not [call for call in nightly.server.writes() if "vmbackups/" in call]


def test_retention_removes_resource_and_set_and_says_so(nightly: Any) -> None:
    made = [child(nightly, days) for days in (1, 2, 3)]
    change(nightly, retention={"keepLast": 2})
    nightly.schedules.reconcile(T0 + 1)
    gone = nightly.read(made[2])
    assert gone["metadata"]["deletionTimestamp"]
    assert names.FINALIZER_SET in gone["metadata"]["finalizers"]
    assert gone["spec"]["deletionPolicy"] == "Delete"
    assert gone["metadata"]["annotations"][names.ANNOTATION_REMOVED_BY].startswith(
        "retention of schedule nightly: last"
    )
    assert "deletionTimestamp" not in nightly.read(made[1])["metadata"]
    assert nightly.happenings.seen[-1].reason == "Retention"
    assert made[2] in nightly.happenings.seen[-1].note


def test_what_was_held_after_the_judgement_is_not_deleted(nightly: Any) -> None:
    """Somebody holds a set in the moment between our look and our write."""
    made = [child(nightly, days) for days in (1, 2)]
    change(nightly, retention={"keepLast": 1})
    nightly.server.change(nightly.path(made[1]), metadata={"annotations": {names.ANNOTATION_HOLD: "audit"}})
    nightly.schedules.reconcile(T0 + 1)
    nightly.hear()
    nightly.schedules.reconcile(T0 + 2)
    held = nightly.read(made[1])
    assert "deletionTimestamp" not in held["metadata"]
    assert held["spec"].get("deletionPolicy", "Retain") == "Retain"
    assert "audit" in str(status(nightly)["retention"]["sets"])


def test_a_crash_after_the_mark_is_taken_back_when_the_policy_changed(nightly: Any) -> None:
    made = [child(nightly, days) for days in (1, 2)]
    change(nightly, retention={"keepLast": 1})
    nightly.server.trouble = failing(1, method="DELETE")
    with pytest.raises(APIServerAway):
        nightly.schedules.reconcile(T0 + 1)
    assert nightly.read(made[1])["spec"]["deletionPolicy"] == "Delete"
    change(nightly, retention={"keepLast": 5})
    nightly.schedules.reconcile(T0 + 2)
    assert nightly.read(made[1])["spec"]["deletionPolicy"] == "Retain"
    assert names.ANNOTATION_REMOVED_BY not in nightly.read(made[1])["metadata"]["annotations"]
    nightly.hear()
    nightly.set_removals.reconcile(T0 + 3)
    assert not nightly.read(made[1])["metadata"].get("finalizers")


@pytest.mark.parametrize("source", ["backup", "set"])
def test_a_set_that_is_being_restored_stays_until_that_is_over(nightly: Any, source: str) -> None:
    made = [child(nightly, days) for days in (1, 2)]
    nightly.server.change(nightly.path(made[1]), status={"set": "team-a/web/old"})
    which = {"backup": made[1]} if source == "backup" else {"set": {"location": "nightly", "vm": "web"}}
    body = {
        "metadata": {"name": "back", "namespace": "team-a"},
        "spec": {"source": which, "target": {"newDomain": {"name": "web-2"}}},
        "status": {"phase": "Copying", "location": "nightly", "set": "team-a/web/old"},
    }
    path = VMRESTORE.path("back", "team-a")
    nightly.server.put(path, body)
    change(nightly, retention={"keepLast": 1})
    nightly.schedules.reconcile(T0 + 1)
    assert "VMRestore back works with it" in str(status(nightly)["retention"]["sets"])
    assert "deletionTimestamp" not in nightly.read(made[1])["metadata"]
    nightly.server.change(path, status={"phase": "Done"})
    nightly.hear()
    nightly.schedules.reconcile(T0 + 2)
    assert nightly.read(made[1])["metadata"]["deletionTimestamp"]


def test_a_location_keeps_its_own_minimum(nightly: Any) -> None:
    for days in (1, 2, 3):
        child(nightly, days)
    nightly.location(retention={"keepDaily": 2})
    change(nightly, retention={"keepLast": 1, "dryRun": True})
    nightly.schedules.reconcile(T0 + 1)
    assert status(nightly)["retention"]["kept"] == 2
    assert "location nightly: daily 2 of 2" in str(status(nightly)["retention"]["sets"])


def test_backups_that_are_not_of_the_schedule_are_nobodys_to_remove(nightly: Any) -> None:
    nightly.backup("by-hand", metadata={"creationTimestamp": rfc3339(DUE - 9 * DAY)})
    end(nightly, "by-hand", at=DUE - 9 * DAY)
    child(nightly, 1)
    change(nightly, retention={"keepLast": 1})
    nightly.schedules.reconcile(T0 + 1)
    assert "deletionTimestamp" not in nightly.read("by-hand")["metadata"]


def test_an_unknown_time_zone_of_retention_removes_nothing_and_says_so(nightly: Any) -> None:
    for days in (1, 2):
        child(nightly, days)
    change(nightly, retention={"keepLast": 1, "timeZone": "Europe/Atlantis"})
    nightly.schedules.reconcile(T0 + 1)
    assert len([name for name in children(nightly) if "deletionTimestamp" not in nightly.read(name)["metadata"]]) == 2
    assert "nothing is removed" in status(nightly)["retention"]["problem"]


def test_failed_children_beyond_the_limit_go_and_sets_stay(nightly: Any) -> None:
    failed = [child(nightly, days, "Failed") for days in range(1, 6)]
    good = child(nightly, 9)
    change(nightly, failedHistoryLimit=2)
    nightly.schedules.reconcile(T0 + 1)
    assert set(children(nightly)) == {*failed[:2], good}


def test_somebody_elses_write_in_between_only_delays_the_removal(nightly: Any) -> None:
    made = [child(nightly, days) for days in (1, 2)]
    change(nightly, retention={"keepLast": 1})
    nightly.server.change(nightly.path(made[1]), status={"summary": {"size": "1 GiB"}})
    nightly.schedules.reconcile(T0 + 1)
    assert "deletionTimestamp" not in nightly.read(made[1])["metadata"]
    nightly.schedules.reconcile(T0 + 2)
    assert nightly.read(made[1])["metadata"]["deletionTimestamp"]


def test_a_deletion_that_the_watch_tells_first_is_not_forgotten(nightly: Any) -> None:
    """The watch may be faster than the answer to our own request; nothing more would ever come."""
    made = [child(nightly, days) for days in (1, 2)]
    change(nightly, retention={"keepLast": 1})
    delete = nightly.server.delete

    def told_first(*arguments: Any) -> Any:
        answer = delete(*arguments)
        nightly.hear()
        return answer

    nightly.server.delete = told_first
    nightly.schedules.reconcile(T0 + 1)
    nightly.set_removals.reconcile(epoch("2026-09-21T15:00:00Z") + 900)
    assert made[1] not in children(nightly)
