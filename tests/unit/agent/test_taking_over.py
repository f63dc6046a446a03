"""What a new agent makes of what the one before it left: journals, overlays, jobs."""

from typing import Any

import pytest

from fakes.waiting import eventually
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.core.facts import Wishes
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.ports import Ports
from vmbackup.errors import NotYet
from vmbackup.tick import Turn, tick

PATH = VMBACKUP.path("b1", "team-a")
METHODS = pytest.mark.parametrize("method", ["Push", "Snapshot"])


class Deaf:
    """The ledger of an agent that is about to die."""

    def report(self, run: Any, facts: Any) -> None: ...

    def wishes(self, _run: Any) -> Any:
        return Wishes()


def left_in_mid_copy(desk: Any, method: str) -> Any:
    """Let an agent die in mid copy and return its last record."""
    backup = desk.bind(spec={"method": method}, status={"attempt": 1, "startTime": rfc3339(desk.clock.now())})
    run = desk.plan(backup)
    desk.journal.record(run)
    ports = Ports(desk.hypervisor, desk.store, desk.journal, Deaf(), desk.clock)
    turn = Turn(run)
    while turn.run.phase is not Phase.COPYING:
        turn = tick(ports, turn)
    desk.store.crash()
    return turn.run


@METHODS
def test_journal_is_gone_on_with(desk: Any, method: str) -> None:
    left_in_mid_copy(desk, method)
    desk.backups.resume()
    backup = desk.until_over()
    assert (backup.status.outcome, backup.status.attempt) == (Outcome.SUCCEEDED, 1)
    assert desk.journal.runs() == ()
    assert desk.domain.disks[0].source == "/images/vda.qcow2"


def test_journal_and_watch_speak_of_the_same_backup(desk: Any) -> None:
    left_in_mid_copy(desk, "Push")
    desk.backups.resume()
    desk.hear()
    desk.until_over()
    assert len(desk.store.sets) == 1


def test_run_that_another_process_brings_to_its_end_is_not_done_again(desk: Any) -> None:
    """The record was read while another process held the VM; when the VM is free, the record is gone."""
    run = left_in_mid_copy(desk, "Push")
    with desk.journal.lock(run.domain_uuid):
        desk.backups.resume()
        eventually(lambda: desk.backups.busy() == 1)
        desk.journal.forget(run)
        desk.domain.push = None
    desk.until_idle()
    assert desk.store.sets == {}
    assert not desk.read().finished
    assert desk.journal.runs() == ()


@METHODS
def test_lost_journal_brings_the_vm_home_then_the_backup_goes_on(desk: Any, method: str) -> None:
    desk.journal.forget(left_in_mid_copy(desk, method))
    desk.backups.rescue()
    desk.hear()
    backup = desk.until_over()
    assert (backup.status.outcome, backup.status.attempt) == (Outcome.SUCCEEDED, 2)
    assert desk.domain.disks[0].source == "/images/vda.qcow2"
    assert desk.journal.runs() == ()


@METHODS
def test_lost_journal_heard_first(desk: Any, method: str) -> None:
    desk.journal.forget(left_in_mid_copy(desk, method))
    desk.hear()
    desk.backups.rescue()
    eventually(lambda: desk.read().status.attempt == 2, "it is home and will be tried again")
    desk.clock.ahead_seconds = 10  # the rest between two attempts
    backup = desk.until_over()
    assert (backup.status.outcome, backup.status.attempt) == (Outcome.SUCCEEDED, 2)


def test_lost_journal_of_a_deleted_backup_lets_the_resource_go(desk: Any) -> None:
    desk.journal.forget(left_in_mid_copy(desk, "Snapshot"))
    desk.server.change(PATH, metadata={"deletionTimestamp": "2026-09-21T15:00:00Z", "finalizers": ["held"]})
    desk.backups.rescue()
    desk.hear()
    assert desk.until_over().status.outcome is Outcome.CANCELLED
    assert desk.domain.disks[0].source == "/images/vda.qcow2"


def test_lost_journal_of_a_backup_that_nobody_knows(desk: Any) -> None:
    desk.journal.forget(left_in_mid_copy(desk, "Snapshot"))
    desk.server.remove(PATH)
    desk.backups.rescue()
    desk.until_idle()
    assert desk.domain.disks[0].source == "/images/vda.qcow2"
    assert desk.server.writes() == []
    assert desk.happenings.seen == []
    assert desk.journal.runs() == ()


def test_rescue_leaves_a_backup_of_the_journal_alone(desk: Any) -> None:
    left_in_mid_copy(desk, "Snapshot")
    desk.backups.rescue()
    assert desk.backups.busy() == 0


def test_one_agent_works_with_a_journal(desk: Any) -> None:
    with (
        desk.journal.sole(),
        pytest.raises(NotYet, match="another agent of this node works in process"),
        desk.journal.sole(),
    ):
        pass
    with desk.journal.sole():
        pass


def test_agent_that_ends_takes_vms_off_overlays_and_begins_nothing(desk: Any) -> None:
    left_in_mid_copy(desk, "Snapshot")
    desk.store.turns_per_work = 1_000_000
    desk.backups.resume()
    left = desk.backups.stop(grace_seconds=10)
    assert desk.domain.disks[0].source == "/images/vda.qcow2"
    assert [run.phase is not Phase.DONE for run in left] == [True]
    desk.hear(desk.bind("b2", metadata={"uid": "7b0f3c51-0000-4000-8000-000000000002"}))
    assert desk.backups.busy() == 1
    desk.hear(desk.read(), gone=True)
    desk.until_idle()
