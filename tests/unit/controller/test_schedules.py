"""Schedules on an API server in memory: what is made and told, and what a crash in between leaves."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import T0, vm
from unit.controller.nightly import DAY, DUE, MARK, change, children, end, ready, status
from vmbackup.api import names
from vmbackup.cluster.errors import APIServerAway, Denied
from vmbackup.cluster.resources import SCHEDULE
from vmbackup.core.kstatus import rfc3339

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
