"""From a run and the facts to the status that users read. The status is a report, never an input of a decision."""

from vmbackup.api.conditions import ConditionType, Reason, drop
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import (
    DiskReport,
    DiskState,
    Executor,
    MethodReport,
    Outcome,
    Phase,
    Summary,
    Verify,
    VMBackupStatus,
)
from vmbackup.core.ending import verify_reason
from vmbackup.core.facts import Facts
from vmbackup.core.kstatus import (
    LONGEST_REASON,
    Conditions,
    Stamp,
    Truth,
    cut,
    done_well,
    ended_badly,
    in_progress,
    rfc3339,
    state,
)
from vmbackup.core.progress import copying, progress
from vmbackup.core.rules import needs_hypervisor
from vmbackup.errors import NotYet

LONGEST_TARGET = 16  # as in api.vmbackup.DiskReport
MOST_DISKS = 128  # as in api.vmbackup.VMBackupStatus

DOING = {
    Phase.ASSIGNED: "resting before the next attempt",
    Phase.PREPARING: "making room in the location",
    Phase.FREEZING: "freezing the guest's file systems",
    Phase.STARTING: "starting the backup job",
    Phase.SNAPSHOTTING: "taking the snapshot",
    Phase.COPYING: "copying the disks",
    Phase.COMMITTING: "merging the overlays into the disks",
    Phase.PIVOTING: "moving the VM back to its disks",
    Phase.CLEANING: "removing the overlays",
    Phase.VERIFYING: "verifying the images",
    Phase.PUBLISHING: "publishing the set",
    Phase.DISCARDING: "removing the unfinished set",
}


def status_of(  # noqa: PLR0913 - what the resource knows besides the run comes by name
    run: Run,
    facts: Facts,
    previous: VMBackupStatus,
    now: float,
    *,
    generation: int = 0,
    executor: Executor | None = None,
    bytes_per_second: float | None = None,
) -> VMBackupStatus:
    """Return the status of a backup that is under way or over on a node.

    previous: what was reported before; its times of transition and the furthest progress are kept.
    bytes_per_second: the present speed (see progress.Pace); by default the average of the attempt.
    """
    done = run.phase is Phase.DONE
    won = done and run.outcome is Outcome.SUCCEEDED
    stored_bytes = sum(disk.stored_bytes for disk in run.disks) if won else None
    shown = progress(run, facts, previous, now, bytes_per_second)
    return VMBackupStatus(
        observed_generation=generation or previous.observed_generation,
        node=previous.node or (executor.node if executor else None),
        phase=run.phase,
        outcome=run.outcome,
        attempt=run.attempt,
        method=MethodReport(used=run.method, reason=cut(run.method_reason, LONGEST_REASON)),
        disks=_disks(run, facts),
        progress=shown,
        summary=Summary.of(
            percent=shown.percent if shown else None,
            stored_bytes=stored_bytes,
            seconds=_ended_at(run, now) - run.started_at if done else None,
        ),
        start_time=rfc3339(run.started_at),
        completion_time=rfc3339(_ended_at(run, now)) if done else None,
        frozen_milliseconds=run.frozen_milliseconds,
        overlay_milliseconds=_overlay_milliseconds(run, now),
        stored_bytes=stored_bytes,
        set=run.set_path if won else None,
        proofs=previous.proofs,
        executor=executor or previous.executor,
        conditions=_conditions(run, facts, previous.conditions, Stamp(now, generation or previous.observed_generation)),
    )


def waiting(previous: VMBackupStatus, reason: str, message: str, stamp: Stamp) -> VMBackupStatus:
    """Return the status of a backup that cannot begin yet."""
    return previous.model_copy(
        update={
            "observed_generation": stamp.generation,
            "conditions": in_progress(previous.conditions, reason, message, stamp),
        }
    )


def refused(previous: VMBackupStatus, reason: str, message: str, stamp: Stamp) -> VMBackupStatus:
    """Return the status of a backup that ended before anything was touched."""
    withdrawn = reason in (Reason.CANCELLED, Reason.DELETED)
    return previous.model_copy(
        update={
            "observed_generation": stamp.generation,
            "phase": Phase.DONE,
            "outcome": Outcome.CANCELLED if withdrawn else Outcome.REFUSED,
            "completion_time": rfc3339(stamp.now),
            "conditions": ended_badly(previous.conditions, reason, message, stamp),
        }
    )


def failed(previous: VMBackupStatus, reason: str, message: str, stamp: Stamp) -> VMBackupStatus:
    """Return the status of a backup that could not be brought to its end here; the phase stays as it was told."""
    return previous.model_copy(
        update={
            "observed_generation": stamp.generation,
            "outcome": Outcome.FAILED,
            "conditions": ended_badly(previous.conditions, reason, message, stamp),
        }
    )


def _conditions(run: Run, facts: Facts, before: Conditions, stamp: Stamp) -> Conditions:
    conditions = _verified(run, _quiesced(run, before, stamp), stamp)
    if run.phase is not Phase.DONE:
        reason, message = _now_doing(run, facts)
        return in_progress(conditions, reason, message, stamp)
    left = f" {run.left}" if run.left else ""
    if run.outcome is Outcome.SUCCEEDED:
        return done_well(conditions, f"VM {run.vm} is backed up: {run.set_path}.{left}", stamp)
    if run.failure is not None:
        return ended_badly(conditions, run.failure.reason, run.failure.message + left, stamp)
    message = f"VM {run.vm}: the backup ended as {run.outcome}.{left}"
    return ended_badly(conditions, Reason.OUTCOME_UNKNOWN, message, stamp)


def _now_doing(run: Run, facts: Facts) -> tuple[str, str]:
    """Return reason and message of work in progress, the most urgent first."""
    doing = f"VM {run.vm}: {DOING.get(run.phase, run.phase)}"
    if facts.hypervisor_problem and (needs_hypervisor(run) or run.phase is Phase.ASSIGNED):
        return Reason.HYPERVISOR_AWAY, f"{doing}; waiting for the hypervisor: {facts.hypervisor_problem}"
    if run.outcome not in (None, Outcome.SUCCEEDED):
        why = run.failure.message if run.failure else run.outcome
        trouble = f"; {run.trouble}" if run.trouble else ""
        return Reason.GOING_HOME, f"{doing}{trouble}; the backup will end as {run.outcome}: {why}"
    error = facts.last.error if facts.last else None
    if isinstance(error, NotYet):
        return error.reason, f"{doing}; {error.message}"
    if run.phase is Phase.ASSIGNED:
        why = run.trouble or (run.failure.message if run.failure else "")
        return Reason.RETRYING, f"{doing}, attempt {run.attempt}: {why}"
    if run.trouble:
        away = run.trouble == facts.store.problem
        return (Reason.LOCATION_NOT_READY if away else Reason.RETRYING), f"{doing}; {run.trouble}"
    return Reason.RUNNING, doing


def _quiesced(run: Run, conditions: Conditions, stamp: Stamp) -> Conditions:
    if run.quiesced is None:
        return drop(conditions, ConditionType.QUIESCED)
    quiesced = run.quiesced
    truth: Truth = "True" if quiesced.done else "False"
    return state(conditions, ConditionType.QUIESCED, truth, quiesced.reason, quiesced.message, stamp)


def _verified(run: Run, conditions: Conditions, stamp: Stamp) -> Conditions:
    if run.outcome is Outcome.SUCCEEDED:
        truth: Truth = "False" if run.spec.verify is Verify.NONE else "True"
        return state(conditions, ConditionType.VERIFIED, truth, verify_reason(run.spec.verify), "", stamp)
    if run.outcome is not None and run.failure is not None and run.failure.reason is Reason.VERIFICATION_FAILED:
        return state(conditions, ConditionType.VERIFIED, "False", run.failure.reason, run.failure.message, stamp)
    return drop(conditions, ConditionType.VERIFIED)


def _disks(run: Run, facts: Facts) -> tuple[DiskReport, ...]:
    reports = [_disk(run, disk, facts) for disk in run.disks]
    reports += [
        DiskReport(name=cut(disk.target, LONGEST_TARGET), state="Skipped", reason=cut(disk.reason, LONGEST_REASON))
        for disk in run.skipped
    ]
    distinct: dict[str, DiskReport] = {}  # the API server refuses a list with two of one name
    for report in reports:
        distinct.setdefault(report.name, report)
    return tuple(distinct.values())[:MOST_DISKS]


def _disk(run: Run, disk: RunDisk, facts: Facts) -> DiskReport:
    disk_state, reason = _disk_state(run, disk, facts)
    return DiskReport(
        name=cut(disk.target, LONGEST_TARGET),
        format=cut(disk.image_format, LONGEST_TARGET),
        virtual_bytes=disk.virtual_bytes,
        stored_bytes=disk.stored_bytes,
        state=disk_state,
        reason=cut(reason, LONGEST_REASON),
        sha256=disk.sha256,
    )


def _disk_state(run: Run, disk: RunDisk, facts: Facts) -> tuple[DiskState, str]:
    work = facts.store.works.get(disk.target)
    if work is not None and work.state == "failed":
        return "Failed", work.error
    if run.phase is Phase.DONE and run.outcome is not Outcome.SUCCEEDED:
        return "Failed", f"nothing was published: {run.failure.message if run.failure else run.outcome}"
    if disk.verified and run.spec.verify is not Verify.NONE:
        return "Verified", ""
    if disk.copied:
        return "Copied", ""
    return ("Copying" if copying(run, disk, facts) else "Waiting"), ""


def _ended_at(run: Run, now: float) -> float:
    return run.finished_at if run.finished_at is not None else now


def _overlay_milliseconds(run: Run, now: float) -> int | None:
    if run.overlay_milliseconds is not None or run.overlay_at is None:
        return run.overlay_milliseconds
    return max(0, round((now - run.overlay_at) * 1000))
