"""Proofs of a schedule's sets on an API server in memory: which are begun, and what the VMBackups then tell."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.objects import CREATED, T0
from vmbackup.api import names
from vmbackup.cluster.errors import APIServerAway, Denied
from vmbackup.cluster.resources import SCHEDULE, VMRESTORE
from vmbackup.core.kstatus import rfc3339

DAY = 86400.0
BOOT = {"boot": {"bootSeconds": 60, "serialPattern": "login:"}}
SCRUB = {"scrub": {"intervalSeconds": 7 * 86400, "maxBytesPerSecond": "10Mi"}}
TRUE = {"type": "Verified", "status": "True", "reason": "Checked", "lastTransitionTime": CREATED}


def scheduled(stage: Any, proof: dict[str, Any] | None) -> Any:
    stage.location()
    stage.schedule(**({"proof": proof} if proof else {}))
    return stage


def published(stage: Any, name: str = "nightly-web-1", vm: str = "web", at: float = T0, **status: Any) -> str:
    """Put a backup of the schedule that has a set."""
    labels = {names.LABEL_SCHEDULE: "nightly", names.LABEL_RUN: "1"}
    said = {
        "phase": "Done",
        "outcome": "Succeeded",
        "node": "n1",
        "set": f"team-a/{vm}/{name}",
        "startTime": rfc3339(at),
        "completionTime": rfc3339(at + 5),
        "conditions": [TRUE],
    }
    metadata = {"labels": labels, "creationTimestamp": rfc3339(at)}
    stage.backup(name, vm=vm, metadata=metadata, status=said | status)
    return name


def restores(stage: Any) -> list[dict[str, Any]]:
    return [body for path, body in sorted(stage.server.objects.items()) if "/vmrestores/" in path]


def end(stage: Any, body: dict[str, Any], at: float, reason: str = "Booted", **status: Any) -> None:
    """Let a proof end as its agent would tell it."""
    good = reason in ("Booted", "Checksummed")
    of = stage.read(body["spec"]["source"]["backup"])
    verified = {"type": "Verified", "status": "True" if good else "False", "reason": reason, "message": f"{reason}!"}
    stage.server.change(
        VMRESTORE.path(body["metadata"]["name"], "team-a"),
        status={
            "phase": "Done",
            "outcome": "Succeeded" if good else "Failed",
            "kind": "Proof",
            "set": of["status"]["set"],
            "location": of["spec"]["location"],
            "completionTime": rfc3339(at),
            "conditions": [verified | {"lastTransitionTime": rfc3339(at)}],
            **status,
        },
    )
    stage.hear()


def verified(stage: Any, name: str = "nightly-web-1") -> tuple[str, str]:
    conditions = stage.read(name)["status"]["conditions"]
    found = next(one for one in conditions if one["type"] == "Verified")
    return found["status"], found["reason"]


def test_without_a_policy_nothing_is_proved(stage: Any) -> None:
    scheduled(stage, None)
    published(stage)
    stage.schedules.reconcile(T0 + 60)
    assert restores(stage) == []


def test_newest_set_of_each_vm_is_booted_once_and_its_backup_tells_the_result(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage, "nightly-web-0", at=T0 - DAY)
    published(stage)
    published(stage, "nightly-db-1", vm="db")
    stage.schedules.reconcile(T0 + 60)
    made = restores(stage)
    assert {body["spec"]["source"]["backup"] for body in made} == {"nightly-web-1", "nightly-db-1"}
    web = next(body for body in made if body["spec"]["source"]["backup"] == "nightly-web-1")
    assert web["spec"]["target"] == {
        "proof": {"kind": "Boot", "bootSeconds": 60, "maxMemory": "1Gi", "serialPattern": "login:", "aliveSeconds": 60}
    }
    assert web["metadata"]["ownerReferences"][0]["name"] == "nightly-web-1"
    seen = {"heartbeat": "SerialPattern", "seconds": 12, "evidence": "x" * 3000 + "login:"}
    for body in made:
        end(stage, body, T0 + 90, proof=seen)
    stage.schedules.reconcile(T0 + 100)
    assert verified(stage) == verified(stage, "nightly-db-1") == ("True", "Booted")
    (record,) = stage.read("nightly-web-1")["status"]["proofs"]
    assert (record["kind"], record["succeeded"], record["heartbeat"]) == ("Boot", True, "SerialPattern")
    assert record["evidence"].endswith("login:")
    assert len(record["evidence"]) <= 1024
    stage.server.calls.clear()
    stage.hear()
    stage.schedules.reconcile(T0 + 300)
    assert [call for call in stage.server.writes() if "vmrestores" in call] == []


def test_interval_between_boots_of_a_vm(stage: Any) -> None:
    scheduled(stage, {"boot": {"intervalSeconds": 7 * 86400}})
    published(stage, "nightly-web-0", at=T0 - DAY)
    stage.schedules.reconcile(T0)
    (first,) = restores(stage)
    end(stage, first, T0 + 10)
    published(stage)
    stage.schedules.reconcile(T0 + 60)
    assert len(restores(stage)) == 1
    stage.schedules.reconcile(T0 + 8 * DAY)
    assert len(restores(stage)) == 2


def test_a_set_that_does_not_boot_is_told_and_is_no_verified_one(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage)
    stage.schedules.reconcile(T0 + 60)
    end(stage, restores(stage)[0], T0 + 90, "NoHeartbeat", proof={"heartbeat": "None", "seconds": 60})
    stage.schedules.reconcile(T0 + 100)
    assert verified(stage) == ("False", "NoHeartbeat")
    assert [one.reason for one in stage.happenings.seen] == ["ProofFailed"]


def test_old_sets_are_read_again_one_at_a_time_and_the_oldest_first(stage: Any) -> None:
    scheduled(stage, SCRUB)
    published(stage, "nightly-web-0", at=T0 - 9 * DAY)
    published(stage, "nightly-web-1", at=T0 - 8 * DAY)
    published(stage, "nightly-web-2", at=T0 - DAY)
    for at, name in ((T0, "nightly-web-0"), (T0 + 200, "nightly-web-1")):
        stage.schedules.reconcile(at)
        stage.schedules.reconcile(at + 61)
        (running,) = [body for body in restores(stage) if body.get("status", {}).get("phase") != "Done"]
        assert running["spec"]["source"]["backup"] == name
        assert running["spec"]["maxBytesPerSecond"] == "10Mi"
        end(stage, running, at + 100, "Checksummed")
    stage.schedules.reconcile(T0 + 400)
    assert len(restores(stage)) == 2
    assert verified(stage, "nightly-web-0") == ("True", "Checksummed")


def test_a_set_found_broken_stays_so_whatever_comes_after(stage: Any) -> None:
    scheduled(stage, SCRUB)
    published(stage, at=T0 - 9 * DAY)
    stage.schedules.reconcile(T0)
    (scrub,) = restores(stage)
    end(stage, scrub, T0 + 10, "VerificationFailed")
    stage.schedules.reconcile(T0 + 60)
    assert verified(stage) == ("False", "VerificationFailed")
    later = {"metadata": {"name": "by-hand", "namespace": "team-a", "creationTimestamp": CREATED}}
    spec = {"source": {"backup": "nightly-web-1"}, "target": {"proof": {"kind": "Boot"}}}
    stage._put(VMRESTORE, "by-hand", "team-a", later | {"spec": spec, "status": {}})
    end(stage, {**later, "spec": spec}, T0 + 1000)
    stage.schedules.reconcile(T0 + 1100)
    assert verified(stage) == ("False", "VerificationFailed")
    assert {one["kind"] for one in stage.read("nightly-web-1")["status"]["proofs"]} == {"Boot", "Scrub"}
    stage.schedules.reconcile(T0 + 30 * DAY)
    assert len(restores(stage)) == 2, "it is known to be broken: not read again"


def test_reading_does_not_make_a_set_that_does_not_boot_a_verified_one(stage: Any) -> None:
    scheduled(stage, BOOT | SCRUB)
    published(stage, at=T0 - 9 * DAY)
    stage.schedules.reconcile(T0)
    by_kind = {body["spec"]["target"]["proof"]["kind"]: body for body in restores(stage)}
    end(stage, by_kind["Boot"], T0 + 10, "NoHeartbeat")
    end(stage, by_kind["Scrub"], T0 + 20, "Checksummed")
    stage.schedules.reconcile(T0 + 60)
    assert verified(stage) == ("False", "NoHeartbeat")


def test_a_proof_that_could_not_run_says_nothing_of_the_set(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage)
    stage.schedules.reconcile(T0 + 60)
    body = restores(stage)[0]
    end(stage, body, T0 + 90, "NoHeartbeat", outcome="Cancelled", conditions=[])
    stage.schedules.reconcile(T0 + 100)
    assert verified(stage) == ("True", "Checked")
    assert "proofs" not in stage.read("nightly-web-1")["status"]


def test_older_result_that_is_read_again_does_not_replace_the_newer_one(stage: Any) -> None:
    """A controller that starts sees all VMRestores that are still there."""
    scheduled(stage, BOOT)
    newer = {"kind": "Boot", "succeeded": False, "time": rfc3339(T0 + 500), "message": "NoHeartbeat: x"}
    no = TRUE | {"status": "False", "reason": "NoHeartbeat"}
    published(stage, proofs=[newer], conditions=[no])
    metadata = {"metadata": {"name": "old", "namespace": "team-a", "creationTimestamp": CREATED}}
    spec = {"source": {"backup": "nightly-web-1"}, "target": {"proof": {"kind": "Boot"}}}
    stage._put(VMRESTORE, "old", "team-a", metadata | {"spec": spec, "status": {}})
    end(stage, metadata | {"spec": spec}, T0 + 90)
    stage.schedules.reconcile(T0 + 600)
    assert verified(stage) == ("False", "NoHeartbeat")


def test_api_server_away_between_result_and_backup_is_made_up_for(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage)
    stage.schedules.reconcile(T0 + 60)
    end(stage, restores(stage)[0], T0 + 90)
    stage.server.trouble = failing(1, method="PATCH")
    with pytest.raises(APIServerAway):
        stage.schedules.reconcile(T0 + 100)
    stage.schedules.reconcile(T0 + 110)
    assert verified(stage) == ("True", "Booted")


def test_suspended_schedule_begins_no_proof(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage)
    stage.server.change(SCHEDULE.path("nightly", "team-a"), spec={"suspend": True})
    stage.hear()
    stage.schedules.reconcile(T0 + 60)
    assert restores(stage) == []


def test_refused_proof_does_not_keep_the_schedule_from_its_runs(stage: Any) -> None:
    scheduled(stage, BOOT)
    published(stage)
    stage.server.trouble = failing(5, Denied("quota exceeded"), method="POST")
    stage.schedules.reconcile(T0 + 60)
    assert restores(stage) == []
    schedule = stage.server.objects[SCHEDULE.path("nightly", "team-a")]
    assert schedule["status"]["nextScheduleTime"] == "2026-09-22T02:30:00Z"


@pytest.mark.parametrize("policy", [BOOT, SCRUB], ids=["boot", "scrub"])
def test_a_proof_that_could_not_run_is_tried_again_later_and_later(stage: Any, policy: dict[str, Any]) -> None:
    scheduled(stage, policy)
    published(stage)
    now, waits = T0 + 8 * DAY, [1, 2, 3]
    stage.schedules.reconcile(now)
    for count, hours in enumerate(waits, start=1):
        (body,) = (each for each in restores(stage) if "status" not in each)
        end(stage, body, now, reason="NotRun", outcome="Failed")
        stage.schedules.reconcile(now + hours * 3600 - 60)
        assert len(restores(stage)) == count
        now += hours * 3600 + 60
        stage.schedules.reconcile(now)
        assert len(restores(stage)) == count + 1
    assert verified(stage)[0] == "True", "nothing was found, so nothing is said of the set"
