"""What users read of a run: phases, disks, conditions as kstatus wants them, and never more than was reached."""

from typing import Any

import pytest

from fakes.objects import T0
from vmbackup.api.conditions import Condition, ConditionType, Reason, find
from vmbackup.api.journal import Failure, Quiesced, Run, RunDisk, SkippedDisk
from vmbackup.api.vmbackup import Executor, Method, Outcome, Phase, Verify, VMBackupSpec, VMBackupStatus
from vmbackup.core.facts import BackupJob, DomainFacts, Facts, LastAct, StoreFacts, Work
from vmbackup.core.kstatus import Stamp
from vmbackup.core.report import refused, status_of, waiting
from vmbackup.core.steps import BeginPush
from vmbackup.errors import NotYet

GIB = 1024**3
NOTHING = VMBackupStatus()
BOUND = VMBackupStatus(node="n1", phase=Phase.ASSIGNED, observed_generation=1)
DISK = RunDisk(
    target="vda",
    source="/var/lib/libvirt/images/web.qcow2",
    source_kind="file",
    source_format="qcow2",
    virtual_bytes=4 * GIB,
    image="vda.qcow2",
    image_format="qcow2",
)
SECOND = DISK.model_copy(update={"target": "vdb", "virtual_bytes": 2 * GIB})


def run(**changes: Any) -> Run:
    spec = changes.pop("spec", {})
    fields: dict[str, Any] = {
        "uid": "7b0f3c51-0000-4000-8000-000000000001",
        "namespace": "team-a",
        "name": "nightly",
        "domain": "team-a_web",
        "domain_uuid": "c7a5fdbd-edaf-9455-926a-d65c16db1809",
        "vm": "web",
        "instance": "boot/1/1",
        "spec": VMBackupSpec.model_validate({"source": {"name": "web"}, "location": "nightly", **spec}),
        "location_path": "/srv/backups",
        "overlay_directory": "/srv/overlays",
        "set_path": "team-a/web/20260921T141320Z-nightly-7b0f3c51",
        "method": Method.PUSH,
        "method_reason": "libvirt 9.0.0 supports full push",
        "disks": (DISK, SECOND),
        "phase": Phase.COPYING,
        "started_at": T0,
        "attempt_started_at": T0,
    }
    return Run(**{**fields, **changes})


def pushing(done: int, total: int = 6 * GIB) -> Facts:
    job = BackupJob("backup", done, total, {"vda": "/srv/x/vda.qcow2", "vdb": "/srv/x/vdb.qcow2"})
    return Facts(DomainFacts("team-a_web", DISK.source, "running", job=job), StoreFacts())


def seeing(**works: Work) -> Facts:
    return Facts(DomainFacts("team-a_web", DISK.source, "running"), StoreFacts(works=works))


def states(status: VMBackupStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


def message(status: VMBackupStatus) -> str:
    ready = find(status.conditions, ConditionType.READY)
    assert ready is not None
    return ready.message


def finished(outcome: Outcome, reason: Reason = Reason.COPY_FAILED, **changes: Any) -> Run:
    failure = None if outcome is Outcome.SUCCEEDED else Failure(reason=reason, message="VM web, disk vda: no more room")
    return run(phase=Phase.DONE, outcome=outcome, failure=failure, finished_at=T0 + 100, **changes)


COPIED = tuple(
    disk.model_copy(update={"copied": True, "verified": True, "stored_bytes": GIB}) for disk in (DISK, SECOND)
)


def test_work_in_progress_is_reconciling_and_neither_ready_nor_failed() -> None:
    status = status_of(run(), pushing(GIB), BOUND, T0 + 10, generation=2)
    assert states(status) == {
        "Reconciling": ("True", "Running"),
        "Ready": ("False", "Running"),
        "Succeeded": ("Unknown", "Running"),
    }
    assert status.observed_generation == 2
    assert {condition.observed_generation for condition in status.conditions} == {2}
    assert status.node == "n1"
    assert status.completion_time is None
    assert status.set is None


def test_success_is_ready_and_names_the_set() -> None:
    before = status_of(run(), pushing(GIB), BOUND, T0 + 10)
    status = status_of(finished(Outcome.SUCCEEDED, disks=COPIED), seeing(), before, T0 + 101)
    assert states(status) == {
        "Ready": ("True", "Completed"),
        "Succeeded": ("True", "Completed"),
        "Verified": ("True", "Checked"),
    }
    assert status.set == "team-a/web/20260921T141320Z-nightly-7b0f3c51"
    assert status.stored_bytes == 2 * GIB
    assert status.completion_time == "2026-09-21T14:15:00Z"
    assert status.progress is not None
    assert (status.progress.percent, status.progress.eta_seconds) == (100, None)
    assert [(disk.name, disk.state) for disk in status.disks] == [("vda", "Verified"), ("vdb", "Verified")]
    assert status.summary is not None
    assert (status.summary.progress, status.summary.size, status.summary.duration) == ("100%", "2.0 GiB", "1m40s")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome.FAILED, Reason.COPY_FAILED),
        (Outcome.REFUSED, Reason.NO_SPACE),
        (Outcome.CANCELLED, Reason.CANCELLED),
        (Outcome.STRANDED, Reason.OVERLAY_ORPHANED),
    ],
)
def test_every_other_end_is_stalled_or_it_would_look_like_work_for_ever(outcome: Outcome, reason: Reason) -> None:
    before = status_of(run(), pushing(GIB), BOUND, T0 + 10)
    status = status_of(finished(outcome, reason, disks=COPIED), seeing(), before, T0 + 101)
    assert states(status) == {"Stalled": ("True", reason), "Ready": ("False", reason), "Succeeded": ("False", reason)}
    assert "no more room" in message(status)
    assert status.outcome is outcome
    assert status.set is None
    assert status.stored_bytes is None
    assert {disk.state for disk in status.disks} == {"Failed"}


def test_a_fixed_outcome_is_shown_on_the_way_home_but_is_not_final() -> None:
    failure = Failure(reason=Reason.OVERLAY_LIMIT, message="the overlay reached 20Gi")
    going = run(phase=Phase.COMMITTING, outcome=Outcome.FAILED, failure=failure)
    status = status_of(going, seeing(), BOUND, T0 + 10)
    assert states(status)["Reconciling"] == ("True", "GoingHome")
    assert states(status)["Succeeded"] == ("Unknown", "GoingHome")
    assert "the overlay reached 20Gi" in message(status)
    assert status.outcome is Outcome.FAILED


def test_the_transition_time_moves_only_with_the_condition() -> None:
    first = status_of(run(), pushing(GIB), BOUND, T0 + 10)
    later = status_of(run(phase=Phase.VERIFYING), seeing(), first, T0 + 50)
    ready = find(later.conditions, ConditionType.READY)
    assert ready is not None
    assert ready.last_transition_time == "2026-09-21T14:13:30Z"
    assert ready.message != message(first)


def test_a_silent_hypervisor_is_told_and_the_progress_stays() -> None:
    first = status_of(run(), pushing(3 * GIB), BOUND, T0 + 10)
    away = Facts(None, StoreFacts(), hypervisor_problem="libvirtd does not answer")
    status = status_of(run(), away, first, T0 + 20)
    assert states(status)["Reconciling"] == ("True", "HypervisorAway")
    assert "libvirtd does not answer" in message(status)
    assert status.progress is not None
    assert status.progress.bytes_done == 3 * GIB


def test_an_act_that_must_wait_says_what_for() -> None:
    last = LastAct(BeginPush(()), NotYet(Reason.FOREIGN_JOB, "a migration runs"))
    facts = Facts(DomainFacts("team-a_web", "u", "running"), StoreFacts(), last=last)
    status = status_of(run(phase=Phase.STARTING), facts, BOUND, T0 + 1)
    assert states(status)["Reconciling"] == ("True", "ForeignJob")


def test_between_two_attempts_it_says_what_failed() -> None:
    failure = Failure(reason=Reason.BACKUP_JOB_FAILED, message="QEMU ended", heals=True)
    status = status_of(run(phase=Phase.ASSIGNED, attempt=2, failure=failure), seeing(), BOUND, T0 + 30)
    assert states(status)["Reconciling"] == ("True", "Retrying")
    assert "attempt 2: QEMU ended" in message(status)
    assert status.attempt == 2


def test_progress_never_falls_within_an_attempt_and_starts_over_with_the_next() -> None:
    first = status_of(run(), pushing(3 * GIB), BOUND, T0 + 10)
    second = status_of(run(), pushing(2 * GIB), first, T0 + 12)
    assert second.progress == first.progress.model_copy(  # type: ignore[union-attr]
        update={"bytes_per_second": second.progress.bytes_per_second, "eta_seconds": second.progress.eta_seconds}  # type: ignore[union-attr]
    )
    third = status_of(run(attempt=2), pushing(GIB), second, T0 + 20)
    assert third.progress is not None
    assert third.progress.bytes_done == GIB


def test_the_end_in_time_comes_from_the_present_speed() -> None:
    status = status_of(run(), pushing(3 * GIB), BOUND, T0 + 10, bytes_per_second=GIB / 10)
    assert status.progress is not None
    assert status.progress.percent == 50
    assert status.progress.eta_seconds == 30


def test_before_anything_is_copied_there_is_no_progress() -> None:
    assert status_of(run(phase=Phase.PREPARING), seeing(), BOUND, T0 + 1).progress is None


def test_disks_are_told_one_by_one_with_what_was_left_out() -> None:
    works = {"vda": Work("copy", "running", GIB), "vdc": Work("copy", "failed", error="read error at 4096")}
    third = DISK.model_copy(update={"target": "vdc"})
    disks = (DISK, SECOND, third, DISK.model_copy(update={"target": "vdd", "copied": True}))
    snapshot = run(method=Method.SNAPSHOT, disks=disks, skipped=(SkippedDisk(target="sda", reason="read-only CD-ROM"),))
    status = status_of(snapshot, seeing(**works), BOUND, T0 + 10)
    assert [(disk.name, disk.state, disk.reason) for disk in status.disks] == [
        ("vda", "Copying", ""),
        ("vdb", "Waiting", ""),
        ("vdc", "Failed", "read error at 4096"),
        ("vdd", "Copied", ""),
        ("sda", "Skipped", "read-only CD-ROM"),
    ]
    assert status.progress is not None
    assert status.progress.bytes_done == 5 * GIB


def test_the_time_on_overlays_runs_on_until_the_vm_is_home() -> None:
    out = run(method=Method.SNAPSHOT, overlay_at=T0 + 5)
    assert status_of(out, seeing(), BOUND, T0 + 7.5).overlay_milliseconds == 2500
    home = out.model_copy(update={"overlay_milliseconds": 2100})
    assert status_of(home, seeing(), BOUND, T0 + 60).overlay_milliseconds == 2100


def test_quiescing_is_told_as_soon_as_it_is_known() -> None:
    frozen = run(quiesced=Quiesced(done=False, reason=Reason.GUEST_AGENT_MISSING), frozen_milliseconds=7)
    status = status_of(frozen, pushing(0), BOUND, T0 + 1)
    assert states(status)["Quiesced"] == ("False", "GuestAgentMissing")
    assert status.frozen_milliseconds == 7
    again = status_of(run(attempt=2), pushing(0), status, T0 + 9)
    assert "Quiesced" not in states(again)


@pytest.mark.parametrize(
    ("verify", "verified"),
    [
        (Verify.NONE, ("False", "NotRequested")),
        (Verify.CHECK, ("True", "Checked")),
        (Verify.CHECKSUM, ("True", "Checksummed")),
    ],
)
def test_verified_says_what_was_asked_for(verify: Verify, verified: tuple[str, str]) -> None:
    status = status_of(finished(Outcome.SUCCEEDED, disks=COPIED, spec={"verify": verify}), seeing(), BOUND, T0 + 101)
    assert states(status)["Verified"] == verified
    assert status.disks[0].state == ("Copied" if verify is Verify.NONE else "Verified")


def test_a_broken_image_is_told_as_not_verified() -> None:
    status = status_of(finished(Outcome.FAILED, Reason.VERIFICATION_FAILED), seeing(), BOUND, T0 + 101)
    assert states(status)["Verified"] == ("False", "VerificationFailed")


def test_texts_of_others_never_break_the_schema() -> None:
    long = "x" * 9000
    failure = Failure(reason=Reason.COPY_FAILED, message=long)
    skipped = (SkippedDisk(target="t" * 40, reason=long), SkippedDisk(target="t" * 40, reason="again"))
    broken = run(phase=Phase.DONE, outcome=Outcome.FAILED, failure=failure, skipped=skipped, method_reason=long)
    status = status_of(broken, seeing(vda=Work("copy", "failed", error=long)), BOUND, T0 + 1)
    again = VMBackupStatus.model_validate(status.model_dump())
    assert again == status
    assert len({disk.name for disk in status.disks}) == len(status.disks) == 3


def test_the_executor_is_told_and_kept() -> None:
    status = status_of(run(), pushing(0), NOTHING, T0 + 1, executor=Executor(node="n1", session="s1"))
    assert status.executor == Executor(node="n1", session="s1")
    assert status.node == "n1"
    assert status_of(run(), pushing(0), status, T0 + 2).executor == status.executor


def test_waiting_keeps_what_was_told_and_says_what_for() -> None:
    status = waiting(BOUND, Reason.VM_NOT_RUNNING, "VM web is off", Stamp(T0, 4))
    assert (status.node, status.phase, status.observed_generation) == ("n1", Phase.ASSIGNED, 4)
    assert states(status)["Ready"] == ("False", "VMNotRunning")
    assert waiting(status, Reason.VM_NOT_RUNNING, "VM web is off", Stamp(T0 + 50, 4)) == status


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Reason.NO_DISKS, Outcome.REFUSED),
        (Reason.CANCELLED, Outcome.CANCELLED),
        (Reason.DELETED, Outcome.CANCELLED),
    ],
)
def test_a_refusal_is_the_end(reason: Reason, outcome: Outcome) -> None:
    status = refused(waiting(BOUND, Reason.QUEUED, "wait", Stamp(T0)), reason, "nothing was touched", Stamp(T0 + 5, 1))
    assert (status.phase, status.outcome, status.completion_time) == (Phase.DONE, outcome, "2026-09-21T14:13:25Z")
    assert "Reconciling" not in states(status)
    assert states(status)["Stalled"] == ("True", reason)


def test_conditions_of_a_newer_version_are_kept() -> None:
    foreign = Condition(type="Archived", status="True", reason="Tape", last_transition_time="2026-09-21T14:13:25Z")
    status = status_of(run(), pushing(0), BOUND.model_copy(update={"conditions": (foreign,)}), T0 + 1)
    assert foreign in status.conditions
