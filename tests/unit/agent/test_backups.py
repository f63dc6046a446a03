"""From what the watch says to the told end, one backup at a time."""

from typing import Any

import pytest

from fakes.apiserver import failing
from fakes.waiting import eventually
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Outcome
from vmbackup.cluster.errors import APIServerAway, Denied
from vmbackup.cluster.resources import LOCATION, VMBACKUP
from vmbackup.core.steps import BeginPush
from vmbackup.errors import Failed

PATH = VMBACKUP.path("b1", "team-a")
METHODS = pytest.mark.parametrize("method", ["Push", "Snapshot"])


@METHODS
def test_backup_is_done_and_told(desk: Any, method: str) -> None:
    desk.hear(desk.bind(spec={"method": method}))
    backup = desk.until_over()
    assert backup.status.outcome is Outcome.SUCCEEDED
    assert backup.status.executor.session == "session-1"
    assert backup.status.start_time is not None
    assert desk.store.sets == {f"/backups/{backup.status.set}": backup.metadata.uid}
    assert desk.journal.runs() == ()
    assert desk.happenings.reasons == ["Started", "Completed"]


def test_late_word_of_the_watch_does_not_begin_a_finished_backup_again(desk: Any) -> None:
    stale = desk.bind()
    desk.hear(stale)
    desk.until_over()
    desk.hear(stale)
    desk.until_idle()
    assert desk.read().status.outcome is Outcome.SUCCEEDED
    assert len(desk.store.sets) == 1
    assert desk.happenings.reasons == ["Started", "Completed"]


def test_watch_that_repeats_itself_begins_one_backup(desk: Any) -> None:
    backup = desk.bind()
    for _ in range(5):
        desk.hear(backup)
    desk.until_over()
    assert [type(call) for call in desk.hypervisor.calls].count(BeginPush) == 1


def test_backup_that_was_bound_elsewhere_meanwhile_is_left_alone(desk: Any) -> None:
    stale = desk.bind()
    desk.server.change(PATH, status={"node": "n2"})
    desk.hear(stale)
    desk.until_idle()
    assert desk.read().status.node == "n2"
    assert desk.server.writes() == []


def test_other_backup_of_the_same_name_is_not_taken_for_it(desk: Any) -> None:
    stale = desk.bind()
    desk.bind(metadata={"uid": "7b0f3c51-0000-4000-8000-000000000002"})
    desk.hear(stale)
    desk.until_idle()
    assert desk.server.writes() == []


def test_nothing_is_begun_without_the_api_server(desk: Any) -> None:
    backup = desk.bind()
    away = APIServerAway("connection refused")
    desk.server.trouble = failing(1_000_000, away)
    desk.hear(backup)
    eventually(lambda: desk.backups.busy() == 1)
    assert not [call for call in desk.hypervisor.calls if isinstance(call, BeginPush)]
    desk.server.trouble = failing(0)
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("times", [1, 3])
def test_api_server_that_knows_no_roles_yet_ends_no_backup(desk: Any, times: int) -> None:
    """For a moment after its start it answers 403 to everybody."""
    backup = desk.bind()
    desk.server.trouble = failing(times, Denied("403: RBAC: clusterrole not found"))
    desk.hear(backup)
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


def test_full_journal_is_told_and_waited_for(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = desk.journal.record, Failed(Reason.STORE_ERROR, "the node journal cannot be written", heals=True)

    def record(_run: Any) -> None:
        raise full

    monkeypatch.setattr(desk.journal, "record", record)
    desk.hear(desk.bind())
    desk.until_waits_for("StoreError")
    assert not [call for call in desk.hypervisor.calls if isinstance(call, BeginPush)]
    monkeypatch.setattr(desk.journal, "record", real)
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


def test_fault_of_ours_costs_time_and_no_backup(desk: Any) -> None:
    desk.hypervisor.errors["find"] = [RuntimeError("a fault of ours")]
    desk.hear(desk.bind())
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


def test_fault_in_mid_copy_goes_on_from_the_journal(desk: Any) -> None:
    desk.hypervisor.errors_after[BeginPush] = [RuntimeError("a fault of ours")]
    desk.hear(desk.bind(spec={"method": "Push"}))
    backup = desk.until_over()
    assert (backup.status.outcome, backup.status.attempt) == (Outcome.SUCCEEDED, 1)


def test_hypervisor_away_is_told_and_waited_for(desk: Any) -> None:
    desk.hypervisor.kill_daemon()
    desk.hear(desk.bind())
    desk.until_waits_for("HypervisorAway")
    desk.hypervisor.start_daemon()
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


def test_deadline_passes_while_it_waits(desk: Any) -> None:
    desk.hypervisor.kill_daemon()
    desk.hear(desk.bind(spec={"deadlineSeconds": 60}))
    desk.until_waits_for("HypervisorAway")
    desk.clock.ahead_seconds = 61
    backup = desk.until_over()
    assert (backup.status.outcome, desk.reason()) == (Outcome.REFUSED, "DeadlineExceeded")
    assert "the daemon is away" in backup.status.conditions[0].message


@pytest.mark.parametrize("wish", ["cancel", "delete"])
def test_withdrawn_while_it_waits(desk: Any, wish: str) -> None:
    desk.hypervisor.kill_daemon()
    desk.hear(desk.bind())
    desk.until_waits_for("HypervisorAway")
    if wish == "cancel":
        desk.server.change(PATH, spec={"cancel": True})
    else:
        desk.server.change(PATH, metadata={"deletionTimestamp": "2026-09-21T15:00:00Z", "finalizers": ["held"]})
    desk.hear()
    assert desk.until_over().status.outcome is Outcome.CANCELLED


def test_resource_that_vanishes_while_it_waits(desk: Any) -> None:
    desk.hypervisor.kill_daemon()
    backup = desk.bind()
    desk.hear(backup)
    desk.until_waits_for("HypervisorAway")
    desk.server.remove(PATH)
    desk.hear(backup, gone=True)
    desk.until_idle()
    assert desk.journal.runs() == ()


def test_location_removed_before_the_begin(desk: Any) -> None:
    backup = desk.bind()
    desk.server.remove(LOCATION.path("nightly"))
    desk.hear(backup)
    desk.until_over()
    assert desk.reason() == "LocationNotFound"


@pytest.mark.parametrize(
    ("allowed", "labels", "outcome"),
    [
        ({"names": ["team-b"]}, {}, Outcome.REFUSED),
        ({"names": ["*"]}, {}, Outcome.SUCCEEDED),
        ({"matchLabels": {"backups": "yes"}}, {"backups": "yes"}, Outcome.SUCCEEDED),
        ({"matchLabels": {"backups": "yes"}}, {"backups": "no"}, Outcome.REFUSED),
        ({}, {}, Outcome.REFUSED),
    ],
)
def test_binding_is_no_leave_to_write_to_a_location(desk: Any, allowed: Any, labels: Any, outcome: Outcome) -> None:
    desk.location(allowedNamespaces=allowed)
    desk.server.put("/api/v1/namespaces/team-a", {"metadata": {"name": "team-a", "labels": labels}})
    desk.hear(desk.bind())
    assert desk.until_over().status.outcome is outcome
    assert bool(desk.store.sets) == (outcome is Outcome.SUCCEEDED)


def test_vm_of_another_namespace(desk: Any) -> None:
    desk.location(allowedNamespaces={"names": ["*"]})
    backup = desk.bind(namespace="team-b")
    desk.hear(backup)
    eventually(lambda: desk.read(namespace="team-b").finished)
    desk.until_idle()
    assert desk.read(namespace="team-b").status.outcome is Outcome.REFUSED
    assert desk.store.sets == {}
