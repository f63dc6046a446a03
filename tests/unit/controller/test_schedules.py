"""Schedules on an API server in memory: what is made, told and removed, and what a crash in between leaves."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import T0, vm
from vmbackup.api import names
from vmbackup.cluster.errors import APIServerAway, Denied
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP, VMRESTORE
from vmbackup.core.kstatus import epoch, rfc3339

DAY = 86400.0
DUE = epoch("2026-09-22T02:30:00Z")
MARK = str(int(DUE // 60))
COLLECTION = f"POST {VMBACKUP.collection('team-a')}"


@pytest.fixture
def nightly(stage: Any) -> Any:
    """A schedule that has been seen once."""
    stage.location()
    stage.schedule()
    stage.schedules.reconcile(T0)
    stage.server.calls.clear()
    return stage


def status(stage: Any, name: str = "nightly") -> dict[str, Any]:
    return dict(stage.server.objects[SCHEDULE.path(name, "team-a")]["status"])


def ready(stage: Any, name: str = "nightly") -> tuple[str, str, str]:
    condition = next(one for one in status(stage, name)["conditions"] if one["type"] == "Ready")
    return condition["status"], condition["reason"], condition["message"]


def children(stage: Any) -> list[str]:
    return sorted(body["metadata"]["name"] for path, body in stage.server.objects.items() if "/vmbackups/" in path)


def change(stage: Any, name: str = "nightly", **spec: Any) -> None:
    stage.server.change(SCHEDULE.path(name, "team-a"), spec=spec, metadata={"generation": 2})
    stage.hear()


def end(stage: Any, name: str, outcome: str = "Succeeded", at: float = DUE, **metadata: Any) -> None:
    """Let a child end as its agent would tell it."""
    verified = {"type": "Verified", "status": "True", "reason": "Checked", "lastTransitionTime": rfc3339(at)}
    said = {"type": "Succeeded", "status": "False", "reason": "CopyFailed", "message": "disk vda: no", **TIME}
    stage.server.change(
        stage.path(name),
        metadata=metadata,
        status={
            "node": "n1",
            "phase": "Done",
            "outcome": outcome,
            "startTime": rfc3339(at),
            "completionTime": rfc3339(at + 5),
            "conditions": [verified] if outcome == "Succeeded" else [said],
        },
    )
    stage.hear()


TIME = {"lastTransitionTime": rfc3339(DUE)}


def child(stage: Any, days_ago: int, outcome: str = "Succeeded", **metadata: Any) -> str:
    """Put a child of the schedule that ended some days before the run that is due."""
    at = DUE - days_ago * DAY
    name = f"nightly-web-{int(at // 60)}"
    labels = {names.LABEL_SCHEDULE: "nightly", names.LABEL_RUN: str(int(at // 60))}
    metadata = {"labels": labels, "creationTimestamp": rfc3339(at)} | metadata
    stage.backup(name, metadata=metadata)
    end(stage, name, outcome, at)
    return name


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_makes_a_child_that_carries_nothing_of_other_tools(nightly: Any) -> None:
    labels = {"app.kubernetes.io/instance": "argo", "team": "a"}
    nightly.server.change(SCHEDULE.path("nightly", "team-a"), metadata={"labels": labels, "annotations": {"x": "y"}})
    nightly.hear()
    nightly.schedules.reconcile(DUE - 1)
    assert children(nightly) == []
    assert status(nightly)["nextScheduleTime"] == "2026-09-22T02:30:00Z"
    nightly.schedules.reconcile(DUE)
    body = nightly.read(f"nightly-web-{MARK}")
    assert body["metadata"]["labels"] == {names.LABEL_SCHEDULE: "nightly", names.LABEL_RUN: MARK}
    assert "annotations" not in body["metadata"]
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["name"], owner["controller"], owner["blockOwnerDeletion"]) == ("nightly", True, False)
    assert body["spec"]["source"] == {"kind": "Domain", "name": "web"}
    assert (body["spec"]["location"], body["spec"]["deletionPolicy"]) == ("nightly", "Retain")
    assert status(nightly)["lastScheduleTime"] == "2026-09-22T02:30:00Z"
    assert status(nightly)["nextScheduleTime"] == "2026-09-23T02:30:00Z"


def test_a_pass_without_news_writes_nothing(nightly: Any) -> None:
    for at in (T0 + 1, DUE, DUE + 1, DUE + 2):
        nightly.schedules.reconcile(at)
    nightly.server.calls.clear()
    nightly.schedules.reconcile(DUE + 3)
    nightly.schedules.reconcile(DUE + 100)
    assert nightly.server.writes() == []


def test_a_crash_between_child_and_status_makes_nothing_twice(nightly: Any) -> None:
    nightly.server.trouble = failing(1, method="PATCH")
    with pytest.raises(APIServerAway):
        nightly.schedules.reconcile(DUE)
    assert children(nightly) == [f"nightly-web-{MARK}"]
    assert "lastScheduleTime" not in status(nightly)
    nightly.schedules.reconcile(DUE + 60)
    assert children(nightly) == [f"nightly-web-{MARK}"]
    assert status(nightly)["lastScheduleTime"] == "2026-09-22T02:30:00Z"
    assert nightly.happenings.seen == []


def test_many_vms_and_those_of_others_are_not_meant(nightly: Any) -> None:
    nightly.host("n1", vm("web-1", 1), vm("web-2", 2), vm("db", 3), vm("web-3", 4, namespace="team-b"))
    change(nightly, vms={"names": None, "match": ["web-*"], "exclude": ["*-2"]})
    nightly.schedules.reconcile(DUE)
    assert children(nightly) == [f"nightly-web-1-{MARK}"]
    assert status(nightly)["vms"] == 1


def test_two_schedules_that_want_the_same_name_both_get_their_backup(stage: Any) -> None:
    stage.schedule("a", vms={"names": ["b-c"]})
    stage.schedule("a-b", vms={"names": ["c"]})
    stage.schedules.reconcile(DUE)
    made = children(stage)
    assert len(made) == 2
    assert {stage.read(name)["spec"]["source"]["name"] for name in made} == {"b-c", "c"}


def test_trigger_runs_once_also_while_suspended(nightly: Any) -> None:
    change(nightly, suspend=True, trigger="2026-09-21")
    for at in (T0 + 1, T0 + 2):
        nightly.schedules.reconcile(at)
    assert len(children(nightly)) == 1
    assert status(nightly)["lastTrigger"] == "2026-09-21"
    assert "nextScheduleTime" not in status(nightly)
    nightly.schedules.reconcile(DUE)
    assert len(children(nightly)) == 1


def test_missed_runs_are_told_once_and_not_piled_up(nightly: Any) -> None:
    for at in (DUE + 3 * DAY + 60, DUE + 3 * DAY + 61):
        nightly.schedules.reconcile(at)
    assert len(children(nightly)) == 1
    assert [one.reason for one in nightly.happenings.seen] == ["MissedRuns"]
    assert (status(nightly)["missedRuns"], status(nightly)["lastMissedTime"]) == (3, "2026-09-24T02:30:00Z")


@pytest.mark.parametrize(("policy", "made", "cancelled"), [("Forbid", 1, 0), ("Allow", 2, 0), ("Replace", 2, 1)])
def test_concurrency(nightly: Any, policy: str, made: int, cancelled: int) -> None:
    change(nightly, concurrencyPolicy=policy)
    nightly.schedules.reconcile(DUE)
    nightly.schedules.reconcile(DUE + DAY)
    assert len(children(nightly)) == made
    assert sum(bool(nightly.read(name)["spec"].get("cancel")) for name in children(nightly)) == cancelled
    if policy == "Forbid":
        assert "left out" in nightly.happenings.seen[0].note
        assert status(nightly)["lastScheduleTime"] == "2026-09-23T02:30:00Z"


def test_a_quota_that_forbids_children_is_told_and_tried_for_a_while(nightly: Any) -> None:
    def forbid(method: str, path: str) -> None:
        if method == "POST":
            raise Denied("exceeded quota")

    nightly.server.trouble = forbid
    nightly.schedules.reconcile(DUE)
    assert "lastScheduleTime" not in status(nightly)
    nightly.server.trouble = failing(0)
    nightly.schedules.reconcile(DUE + 1)
    assert len(children(nightly)) == 1
    end(nightly, f"nightly-web-{MARK}")
    nightly.server.trouble = forbid
    for at in (DUE + DAY, DUE + DAY + 60, DUE + DAY + 130):
        nightly.schedules.reconcile(at)
    assert ready(nightly)[:2] == ("False", "LastRunFailed")
    assert "exceeded quota" in ready(nightly)[2]


@pytest.mark.parametrize(
    ("spec", "words"), [({"schedule": "99 * * * *"}, "minute"), ({"timeZone": "Europe/Atlantis"}, "no Europe/Atlantis")]
)
def test_what_cannot_run_is_not_ready_and_says_why(nightly: Any, spec: dict[str, Any], words: str) -> None:
    change(nightly, **spec)
    nightly.schedules.reconcile(DUE)
    assert ready(nightly)[:2] == ("False", "InvalidSpec")
    assert words in ready(nightly)[2]
    assert children(nightly) == []
    change(nightly, schedule="30 2 * * *", timeZone="UTC")
    nightly.schedules.reconcile(DUE + 60)
    assert ready(nightly)[0] == "True"


# -- status -----------------------------------------------------------------------------------------------------------


def test_ready_follows_the_last_result(nightly: Any) -> None:
    assert ready(nightly)[:2] == ("True", "Scheduled")
    nightly.schedules.reconcile(DUE)
    nightly.schedules.reconcile(DUE + 1)
    assert (status(nightly)["lastResult"], status(nightly)["active"]) == ("Running", 1)
    end(nightly, f"nightly-web-{MARK}", "Failed")
    nightly.schedules.reconcile(DUE + 10)
    assert ready(nightly)[:2] == ("False", "LastRunFailed")
    assert "disk vda: no" in ready(nightly)[2]
    assert any(one["type"] == "Stalled" and one["status"] == "True" for one in status(nightly)["conditions"])
    assert status(nightly)["lastResult"] == "Failed"
    nightly.schedules.reconcile(DUE + DAY)
    end(nightly, f"nightly-web-{int((DUE + DAY) // 60)}", at=DUE + DAY)
    nightly.schedules.reconcile(DUE + DAY + 10)
    assert ready(nightly)[:2] == ("True", "Scheduled")
    assert not any(one["type"] == "Stalled" for one in status(nightly)["conditions"])
    assert status(nightly)["lastSuccessfulTime"] == rfc3339(DUE + DAY + 5)


def test_a_selector_that_matches_nothing_is_not_ready(nightly: Any) -> None:
    change(nightly, vms={"names": None, "match": ["nothing-*"]})
    nightly.schedules.reconcile(T0 + 1)
    assert ready(nightly)[:2] == ("False", "VMNotFound")


# -- retention --------------------------------------------------------------------------------------------------------


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
