"""The status of a VMBackupSchedule: what became of its children, what comes next, what retention says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmbackup.api.conditions import Condition, ConditionType, Reason, drop
from vmbackup.api.schedule import (
    LastResult,
    RetentionReport,
    SetVerdict,
    Timetable,
    VMBackupSchedule,
    VMBackupScheduleStatus,
)
from vmbackup.core.children import Child, newest_ended
from vmbackup.core.kstatus import Stamp, cut, rfc3339, state
from vmbackup.core.retention import Verdict
from vmbackup.core.schedule import Plan

MOST_NAMED = 10
MOST_SETS = 200  # as in api.schedule.RetentionReport
LONGEST_WORDS = 256
MOST_WORDS = 32


@dataclass(frozen=True)
class Outlook:
    """What the next run is for. problem: what keeps the schedule from running at all.

    refused: VMBackups of the last run that the API server did not take.
    """

    vms: Sequence[str] = ()
    plan: Plan | None = None
    problem: str = ""
    refused: str = ""


def status_of(
    schedule: VMBackupSchedule,
    outlook: Outlook,
    children: Iterable[Child],
    retention: RetentionReport | None,
    stamp: Stamp,
) -> VMBackupScheduleStatus:
    """Return the status; what was remembered stays where nothing new is to be remembered."""
    children = list(children)
    newest = newest_ended(children)
    current = {vm: newest[vm] for vm in outlook.vms if vm in newest}
    active = sum(child.active for child in children)
    before, plan = schedule.status, outlook.plan
    ended = [child.ended_at for child in children if child.succeeded and child.ended_at is not None]
    last_success = max((rfc3339(at) for at in ended), default=before.last_successful_time)
    changes: dict[str, object] = {
        "observed_generation": stamp.generation,
        "active": active,
        "vms": len(outlook.vms),
        "retention": retention,
        "last_successful_time": max(filter(None, (last_success, before.last_successful_time)), default=None),
        "last_result": _result(active, current.values()),
        "next_schedule_time": None if plan is None or plan.next_at is None else rfc3339(plan.next_at),
        "conditions": _conditions(schedule, outlook, current, stamp),
    }
    return before.model_copy(update=changes | (remembered(schedule, plan) if plan else {}))


def remembered(schedule: VMBackupSchedule, plan: Plan) -> dict[str, object]:
    """Return what must be in the status after the runs of the plan were made."""
    status = schedule.status
    changes: dict[str, object] = {"timetable": Timetable(text=plan.text, since=rfc3339(plan.since))}
    for run in plan.runs:
        if run.at is None:
            changes["last_trigger"] = run.trigger
        else:
            changes["last_schedule_time"] = rfc3339(run.at)
    if plan.missed is not None:
        changes["missed_runs"] = status.missed_runs + plan.missed.count
        changes["last_missed_time"] = rfc3339(plan.missed.last)
    return changes


def retention_report(verdicts: Mapping[str, Sequence[Verdict]], problem: str = "") -> RetentionReport:
    """Return what retention says of all VMs: what goes comes first, then the newest."""
    every = [(vm, verdict) for vm in sorted(verdicts) for verdict in verdicts[vm]]
    listed = sorted(every, key=lambda one: (one[1].keep, -one[1].set.at, one[0]))[:MOST_SETS]
    return RetentionReport(
        kept=sum(verdict.keep for _, verdict in every),
        removable=sum(not verdict.keep for _, verdict in every),
        broken=sum(verdict.set.broken for _, verdict in every),
        problem=cut(problem, 512),
        sets=tuple(
            SetVerdict(
                name=verdict.set.name,
                vm=vm,
                keep=verdict.keep,
                reasons=tuple(cut(words, LONGEST_WORDS) for words in verdict.reasons[:MOST_WORDS]),
            )
            for vm, verdict in listed
        ),
    )


def _result(active: int, newest: Iterable[Child]) -> LastResult | None:
    newest = list(newest)
    if active:
        return LastResult.RUNNING
    if not newest:
        return None
    return LastResult.SUCCEEDED if all(child.succeeded for child in newest) else LastResult.FAILED


def _conditions(
    schedule: VMBackupSchedule, outlook: Outlook, newest: Mapping[str, Child], stamp: Stamp
) -> tuple[Condition, ...]:
    """Ready follows the last backup of every VM; a schedule that cannot run is not ready either."""
    conditions = schedule.status.conditions
    failed = [child for child in newest.values() if not child.succeeded]
    if outlook.problem:
        reason, message = Reason.INVALID_SPEC, outlook.problem
    elif outlook.refused:
        reason, message = Reason.LAST_RUN_FAILED, outlook.refused
    elif failed:
        named = "; ".join(f"VM {child.vm}: {child.name}: {child.why}" for child in failed[:MOST_NAMED])
        more = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
        reason, message = Reason.LAST_RUN_FAILED, f"{named}{more}"
    elif not outlook.vms:
        message = "No VM of this namespace is meant: see spec.vms, and `kubectl get vmhosts` for the VMs that are seen."
        reason = Reason.VM_NOT_FOUND
    else:
        suspended = schedule.spec.suspend
        reason = Reason.SUSPENDED if suspended else Reason.SCHEDULED
        good = f"{len(newest)} of {len(outlook.vms)} VM(s) have a backup of this schedule, all of the newest succeeded."
        message = f"Suspended. {good}" if suspended else good
        conditions = drop(conditions, ConditionType.STALLED)
        return state(conditions, ConditionType.READY, "True", reason, message, stamp)
    conditions = state(conditions, ConditionType.STALLED, "True", reason, message, stamp)
    return state(conditions, ConditionType.READY, "False", reason, message, stamp)
