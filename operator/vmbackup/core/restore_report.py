"""From a restore's run and the facts to the status that users read."""

from vmbackup.api.conditions import ConditionType, Reason
from vmbackup.api.restore import ProofReport, RestoredDisk, RestoredState, RestorePhase, VMRestoreStatus
from vmbackup.api.restore_journal import RestoreDisk, RestoreRun
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.api.vmbackup import Executor, Outcome, Progress, Summary
from vmbackup.core.kstatus import Conditions, Stamp, cut, done_well, ended_badly, in_progress, rfc3339, state
from vmbackup.core.restore_facts import RestoreFacts
from vmbackup.core.restore_path import needs_hypervisor

P = RestorePhase
DOING = {
    P.PREPARING: "checking the set and making room",
    P.COPYING: "copying the images",
    P.VERIFYING: "verifying the images",
    P.PLACING: "putting the images into their place",
    P.DEFINING: "defining the VM",
    P.STARTING: "starting the VM",
    P.PROVING: "waiting for a sign of life",
    P.PULLING: "the VM runs; its data is brought from the set",
    P.CLEANING: "tidying up",
    P.DISCARDING: "removing what was made",
}
DONE = {
    "NewDomain": "is there",
    "Disks": "has its disks in files",
    "InPlace": "has its disks back",
    "Instant": "has all of its data on its own disks",
    "Proof": "was proved",
}


def restore_status(
    run: RestoreRun,
    facts: RestoreFacts,
    previous: VMRestoreStatus,
    now: float,
    *,
    generation: int = 0,
    executor: Executor | None = None,
) -> VMRestoreStatus:
    """Return the status of a restore that is under way or over on a node."""
    over = run.phase is P.DONE
    shown = _progress(run, facts, previous)
    ended_at = run.finished_at if run.finished_at is not None else now
    generation = generation or previous.observed_generation
    return VMRestoreStatus(
        observed_generation=generation,
        node=previous.node or (executor.node if executor else None),
        phase=run.phase,
        outcome=run.outcome,
        kind=run.kind,
        set=run.set_path,
        location=run.location,
        vm=run.vm,
        point_in_time=run.point_in_time,
        domain=run.domain or None,
        disks=tuple(_disk(run, disk, facts) for disk in run.disks),
        progress=shown,
        summary=Summary.of(percent=shown.percent, seconds=ended_at - run.started_at if over else None),
        start_time=rfc3339(run.started_at),
        running_time=rfc3339(run.running_at) if run.running_at is not None else None,
        running_milliseconds=_running_milliseconds(run),
        completion_time=rfc3339(ended_at) if over else None,
        proof=ProofReport(**run.proof.model_dump()) if run.proof else None,
        executor=executor or previous.executor,
        conditions=_conditions(run, facts, previous.conditions, Stamp(now, generation)),
    )


def waiting(previous: VMRestoreStatus, reason: str, message: str, stamp: Stamp) -> VMRestoreStatus:
    """Return the status of a restore that cannot begin yet."""
    return previous.model_copy(
        update={
            "observed_generation": stamp.generation,
            "conditions": in_progress(previous.conditions, reason, message, stamp),
        }
    )


def refused(previous: VMRestoreStatus, reason: str, message: str, stamp: Stamp) -> VMRestoreStatus:
    """Return the status of a restore that ended before anything was touched."""
    withdrawn = reason in (Reason.CANCELLED, Reason.DELETED)
    return previous.model_copy(
        update={
            "observed_generation": stamp.generation,
            "phase": P.DONE,
            "outcome": Outcome.CANCELLED if withdrawn else Outcome.REFUSED,
            "completion_time": rfc3339(stamp.now),
            "conditions": ended_badly(previous.conditions, reason, message, stamp),
        }
    )


def _running_milliseconds(run: RestoreRun) -> int | None:
    return None if run.running_at is None else max(0, round((run.running_at - run.started_at) * 1000))


def _conditions(run: RestoreRun, facts: RestoreFacts, before: Conditions, stamp: Stamp) -> Conditions:
    conditions = _verified(run, before, stamp)
    if run.phase is not P.DONE:
        reason, message = _now_doing(run, facts)
        return in_progress(conditions, reason, message, stamp)
    left = f" {run.left}" if run.left else ""
    if run.outcome is Outcome.SUCCEEDED:
        what = f"VM {run.domain or run.vm} {DONE[run.kind]}, as of {run.point_in_time} (set {run.set_path})."
        return done_well(conditions, what + left, stamp)
    failure = run.failure
    if failure is not None:
        return ended_badly(conditions, failure.reason, failure.message + left, stamp)
    return ended_badly(conditions, Reason.OUTCOME_UNKNOWN, f"VM {run.vm}: ended as {run.outcome}.{left}", stamp)


def _now_doing(run: RestoreRun, facts: RestoreFacts) -> tuple[str, str]:
    doing = f"VM {run.label}: {DOING.get(run.phase, run.phase)}"
    if run.outcome not in (None, Outcome.SUCCEEDED):
        why = run.failure.message if run.failure else run.outcome
        trouble = f"; {run.trouble}" if run.trouble else ""
        return Reason.GOING_HOME, f"{doing}{trouble}; the restore will end as {run.outcome}: {why}"
    if facts.hypervisor_problem and needs_hypervisor(run):
        return Reason.HYPERVISOR_AWAY, f"{doing}; waiting for the hypervisor: {facts.hypervisor_problem}"
    return (Reason.RETRYING, f"{doing}; {run.trouble}") if run.trouble else (Reason.RUNNING, doing)


def _verified(run: RestoreRun, conditions: Conditions, stamp: Stamp) -> Conditions:
    """Tell whether the set was proved or verified; nothing before it was looked at."""
    failure = run.failure
    if failure is not None and failure.reason in (Reason.VERIFICATION_FAILED, Reason.NO_HEARTBEAT, Reason.SET_BROKEN):
        return state(conditions, ConditionType.VERIFIED, "False", failure.reason, failure.message, stamp)
    if run.proof is not None and run.outcome is Outcome.SUCCEEDED:
        words = f"the copy gave a sign of life ({run.proof.heartbeat}) after {run.proof.seconds} s"
        return state(conditions, ConditionType.VERIFIED, "True", Reason.BOOTED, words, stamp)
    if run.disks and all(disk.verified for disk in run.disks):
        reason, words = _how_far(run.spec, run)
        truth = "False" if reason is Reason.NOT_REQUESTED else "True"
        return state(conditions, ConditionType.VERIFIED, truth, reason, words, stamp)  # type: ignore[arg-type]
    return conditions


def _how_far(spec: VMRestoreSpec, run: RestoreRun) -> tuple[Reason, str]:
    if spec.verify == "None":
        return Reason.NOT_REQUESTED, "only sizes and headers were looked at"
    if spec.verify == "Check" or not all(disk.sha256 for disk in run.disks):
        return Reason.CHECKED, "" if spec.verify == "Check" else "the set has no digests"
    if run.kind == "Instant":
        return Reason.CHECKED, "digests are not compared before an instant start"
    return Reason.CHECKSUMMED, ""


def _disk(run: RestoreRun, disk: RestoreDisk, facts: RestoreFacts) -> RestoredDisk:
    return RestoredDisk(
        name=disk.target,
        format=disk.format,
        virtual_bytes=disk.virtual_bytes,
        state=_state(run, disk, facts),
        path="" if run.kind == "Proof" else cut(disk.file, 4096),
    )


def _state(run: RestoreRun, disk: RestoreDisk, facts: RestoreFacts) -> RestoredState:
    work = facts.files.works.get(disk.target)
    if run.outcome not in (None, Outcome.SUCCEEDED):
        return "Failed"
    if run.outcome is Outcome.SUCCEEDED and run.kind != "Proof":
        return "Restored"
    if run.kind == "Instant" and run.phase is P.PULLING:
        return "Restored" if disk.pulled else "Pulling"
    if disk.verified:
        return "Verified"
    if disk.copied:
        return "Copied"
    return "Copying" if work is not None and work.state == "running" else "Waiting"


def _progress(run: RestoreRun, facts: RestoreFacts, previous: VMRestoreStatus) -> Progress:
    total = sum(disk.allocated_bytes for disk in run.disks)
    if run.phase is P.PULLING:
        done = sum(_pulled_bytes(disk, facts) for disk in run.disks)
    else:
        done = sum(_copied_bytes(run, disk, facts) for disk in run.disks)
    if run.outcome is Outcome.SUCCEEDED:
        done = total
    done = min(total, done)
    before = previous.progress
    if before is not None and before.bytes_total == total and previous.phase == run.phase:
        done = max(done, min(before.bytes_done, total))
    percent = 100 * done // total if total else (100 if run.outcome is Outcome.SUCCEEDED else 0)
    return Progress(bytes_done=done, bytes_total=total, percent=percent)


def _copied_bytes(run: RestoreRun, disk: RestoreDisk, facts: RestoreFacts) -> int:
    if run.kind in ("Instant", "Proof"):
        return 0
    if disk.copied:
        return disk.allocated_bytes
    work = facts.files.works.get(disk.target)
    return work.bytes_done if work is not None and work.kind == "copy" else 0


def _pulled_bytes(disk: RestoreDisk, facts: RestoreFacts) -> int:
    if disk.pulled:
        return disk.allocated_bytes
    seen = facts.domain.disk(disk.target) if facts.domain else None
    job = seen.job if seen else None
    if job is None or job.bytes_total <= 0:
        return 0
    return disk.allocated_bytes * job.bytes_done // job.bytes_total
