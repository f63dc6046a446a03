"""What an agent leaves behind when it ends, and what it keeps in mind after a backup is over."""

from typing import Any

import pytest

from fakes.waiting import eventually
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Freeze, Run, RunDisk
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.core.steps import AbortJob, BeginPush, TakeSnapshot, ThawGuest
from vmbackup.errors import Failed

PATH = VMBACKUP.path("b1", "team-a")
UID = "7b0f3c51-0000-4000-8000-000000000001"


def planned(desk: Any, method: str = "Snapshot", **changes: Any) -> Run:
    """Return the record of a backup that a former agent has begun."""
    backup = desk.bind(spec={"method": method}, status={"attempt": 1})
    run: Run = desk.plan(backup)
    return run.model_copy(update=changes)


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_agent_does_not_end_before_a_guest_is_thawed(desk: Any, method: str) -> None:
    frozen = {
        "freeze": Freeze.FROZEN,
        "frozen_at": desk.clock.now(),
        "phase": Phase.DISCARDING,
        "outcome": Outcome.FAILED,
    }
    why = Failure(reason=Reason.INTERRUPTED, message="interrupted")
    desk.journal.record(planned(desk, method, **frozen, failure=why))
    desk.domain.guest.freeze(8.0)
    desk.hypervisor.errors[ThawGuest] = [Failed(Reason.FREEZE_FAILED, "agent is away")] * 4
    desk.backups.resume()
    desk.backups.stop(grace_seconds=20)
    assert not desk.domain.guest.frozen
    desk.until_idle()


def test_agent_does_not_wait_for_more_than_its_grace(desk: Any) -> None:
    desk.journal.record(planned(desk, phase=Phase.COMMITTING, began=True, overlay_at=desk.clock.now()))
    left = desk.backups.stop(grace_seconds=0.2)  # nobody works on it here
    assert [run.phase for run in left] == [Phase.COMMITTING]


def test_backup_that_waits_for_its_begin_is_left_to_the_next_agent(desk: Any) -> None:
    desk.store.free_bytes = 10**12
    desk.domain.start_foreign_job("outgoing migration")
    desk.hear(desk.bind())
    desk.until_waits_for("ForeignJob")
    desk.backups.stop(grace_seconds=5)
    desk.domain.foreign_job = None
    eventually(desk.journal.runs, "it is planned")
    run = desk.journal.runs()[0]
    assert run.phase is Phase.PREPARING
    assert not [call for call in desk.hypervisor.calls if isinstance(call, BeginPush | TakeSnapshot)]
    desk.ledger.stopping = False
    desk.backups.wake()
    assert desk.until_over().status.outcome is Outcome.SUCCEEDED


def stranded(desk: Any) -> Run:
    """Leave what a backup leaves whose VM was redefined and started again: on its base, an overlay beside it."""
    overlay = f"/images/.vmbackup.{UID}.1.vda.overlay"
    disk = RunDisk(
        target="vda",
        source="/images/vda.qcow2",
        source_kind="file",
        source_format="qcow2",
        virtual_bytes=64 * 1024**2,
        image="vda.qcow2",
        image_format="qcow2",
        overlay=overlay,
    )
    desk.domain.take_snapshot({"vda": overlay})
    desk.hypervisor.files[overlay] = 10**7
    desk.domain.disks[0].inactive_source = "/images/vda.qcow2"
    desk.domain.kill_qemu()
    desk.domain.restart_guest()
    return planned(
        desk, phase=Phase.COMMITTING, disks=(disk,), began=True, overlay_at=desk.clock.now(), instance="boot.1.1",
        method=Method.SNAPSHOT,
    )  # fmt: skip


def test_overlay_that_awaits_a_decision_is_not_merged_when_the_vm_is_started_on_it(desk: Any) -> None:
    """The base was written since: merging what is older would destroy it, and nobody could go back."""
    run = stranded(desk)
    desk.journal.record(run)
    desk.backups.resume()
    assert desk.until_over().status.outcome is Outcome.STRANDED
    desk.domain.kill_qemu()
    desk.domain.disks[0].inactive_source = run.disks[0].overlay
    desk.domain.restart_guest()
    desk.backups.sweep()
    desk.backups.rescue()
    desk.until_idle()
    assert desk.hypervisor.images["/images/vda.qcow2"].commits == 0
    assert desk.domain.disks[0].source == run.disks[0].overlay


def test_decision_about_an_overlay_ends_its_record(desk: Any) -> None:
    run = stranded(desk)
    desk.journal.record(run)
    desk.backups.resume()
    desk.until_over()
    desk.backups.sweep()
    assert [left.uid for left in desk.journal.runs()] == [UID]
    del desk.hypervisor.files[run.disks[0].overlay]
    desk.backups.sweep()
    assert desk.journal.runs() == ()


def test_nothing_is_kept_in_mind_of_a_backup_that_went_while_it_ran(desk: Any) -> None:
    desk.domain.looks = 0
    backup = desk.bind(spec={"method": "Push"})
    desk.hear(backup)
    eventually(lambda: desk.domain.push is not None, "the job runs")
    desk.server.remove(PATH)
    desk.hear(backup, gone=True)
    desk.until_idle()
    eventually(lambda: not desk.ledger._told, "forgotten")
    assert desk.status_ledger._letters == {}
    assert desk.status_ledger._wishes == {}
    assert desk.domain.push is None


def test_event_tells_what_bars_the_way_home_not_only_why_the_backup_failed(desk: Any) -> None:
    desk.domain.looks = 0
    desk.hear(desk.bind(spec={"method": "Push"}))
    eventually(lambda: desk.domain.push is not None, "the job runs")
    desk.hypervisor.errors[AbortJob] = [Failed(Reason.HYPERVISOR_ERROR, "cannot acquire state change lock")]
    desk.server.change(PATH, spec={"cancel": True})
    desk.hear()
    eventually(lambda: any("state change lock" in happening.note for happening in desk.happenings.seen), "told")
    desk.clock.ahead_seconds = 2
    desk.until_over()
    notes = [happening.note for happening in desk.happenings.seen]
    assert any("cancelled" in words for words in notes)
