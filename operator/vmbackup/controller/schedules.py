"""Schedules: children by the clock, the status that follows them, and the sets that are no longer kept."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vmbackup.api.conditions import Reason
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.schedule import ConcurrencyPolicy, RetentionReport, VMBackupSchedule
from vmbackup.api.spec import SourceKind
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import SCHEDULE
from vmbackup.controller.children import Children, Family
from vmbackup.controller.proving import Proving
from vmbackup.controller.pruning import Pruning
from vmbackup.controller.writer import Writer
from vmbackup.core.kstatus import Stamp, rfc3339
from vmbackup.core.schedule import Plan, Run, by_namespace, covered, missed_words, plan, seen_vms
from vmbackup.core.schedule_report import Outlook, status_of

LOOK_SECONDS = 60.0  # a schedule without news is looked at so often
REFUSED_SECONDS = 120.0  # a child that the API server refuses is tried for so long

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What one pass looks at."""

    families: Mapping[tuple[str, str], Family]
    seen: Mapping[SourceKind, Mapping[str, set[str]]]
    locations: Mapping[str, VMBackupLocation]


class Schedules:
    """Brings every schedule to what its plan says."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._proving = Proving(writer)
        self._children = Children(writer)
        self._pruning = Pruning(writer)
        self._looked: dict[str, tuple[object, float]] = {}
        self._refused: dict[str, str] = {}
        self._refused_since: dict[str, float] = {}
        self._unsettled: set[str] = set()  # something could not be written: looked at again at once

    def reconcile(self, now: float) -> None:
        """Take one pass. Raises: APIServerAway."""
        cache = self._writer.cache
        self._proving.join(now)
        schedules = cache.schedules()
        seen = {SourceKind.DOMAIN: seen_vms(cache.hosts().values()), SourceKind.VMI: by_namespace(cache.vmis())}
        scene = Scene(self._children.families(), seen, cache.locations())
        for schedule in schedules:
            if not schedule.metadata.deletion_timestamp:
                self._look(schedule, scene, now)
        uids = {schedule.metadata.uid for schedule in schedules}
        for memory in (self._looked, self._refused, self._refused_since):
            for uid in set(memory) - uids:
                memory.pop(uid)
        self._unsettled &= uids

    def _look(self, schedule: VMBackupSchedule, scene: Scene, now: float) -> None:
        """Look at a schedule when it has news, or its time has come."""
        namespace = schedule.metadata.namespace
        family = scene.families.get((namespace, schedule.metadata.name), ())
        vms = covered(schedule.spec.vms, scene.seen[schedule.spec.vms.kind].get(namespace, ()))
        floors = tuple(sorted((name, str(at.spec.retention)) for name, at in scene.locations.items()))
        news = (schedule.metadata.resource_version, frozenset(member.child for member in family), vms, floors)
        before, look_at = self._looked.get(schedule.metadata.uid, (None, 0.0))
        if news == before and now < look_at and look_at - now <= LOOK_SECONDS:
            return
        outlook = _outlook(schedule, vms, now)
        self._unsettled.discard(schedule.metadata.uid)
        done = self._writer.write(
            SCHEDULE, schedule.metadata, partial(self._serve, schedule, outlook, family, scene.locations, now)
        )
        if done and schedule.metadata.uid not in self._unsettled:
            next_at = outlook.plan.next_at if outlook.plan else None
            soon = now + LOOK_SECONDS if next_at is None else min(next_at, now + LOOK_SECONDS)
            self._looked[schedule.metadata.uid] = (news, soon)

    def _serve(
        self,
        schedule: VMBackupSchedule,
        outlook: Outlook,
        family: Family,
        locations: Mapping[str, VMBackupLocation],
        now: float,
        body: Body,
    ) -> None:
        """Make the children first, then the status: who dies in between makes the same children again."""
        if outlook.plan is not None and not self._run(schedule, outlook.plan, outlook.vms, family, now):
            return
        outlook = replace(outlook, refused=self._refused.get(schedule.metadata.uid, ""))
        verdicts, retention = self._pruning.judge(schedule, family, locations)
        children = [member.child for member in family]
        stamp = Stamp(now, schedule.metadata.generation)
        status = status_of(schedule, outlook, children, retention, stamp)
        written = self._writer.resources.patch_status(SCHEDULE, body, status)
        if written is not body:
            self._writer.wrote(SCHEDULE, written)
            self._say(schedule, outlook.plan, retention)
        self._proving.begin(schedule, family, now)
        if not self._pruning.prune(schedule, family, verdicts):
            self._unsettled.add(schedule.metadata.uid)

    def _run(self, schedule: VMBackupSchedule, planned: Plan, vms: Sequence[str], family: Family, now: float) -> bool:
        """Make the children of all runs that are due; False when that must be tried again."""
        refused: list[str] = []
        for run in planned.runs:
            log.info("schedule %s: run %s for %d VM(s)", schedule.key, _called(run), len(vms))
            due = [vm for vm in vms if self._may_run(schedule, run, vm, family)]
            refused += [why for vm in due if (why := self._children.make(schedule, run, vm))]
        uid = schedule.metadata.uid
        if not planned.runs:
            return True
        if refused and now - self._refused_since.setdefault(uid, now) < REFUSED_SECONDS:
            self._unsettled.add(uid)
            return False  # a restarted API server forbids all for a moment
        self._refused_since.pop(uid, None)
        self._refused.pop(uid, None)
        if refused:
            self._refused[uid] = "; ".join(refused[:10])
        return True

    def _may_run(self, schedule: VMBackupSchedule, run: Run, vm: str, family: Family) -> bool:
        """Look what is under way for a VM, and do as the concurrencyPolicy says. A trigger always makes its run."""
        policy = schedule.spec.concurrency_policy
        former = [member for member in family if member.child.active and member.child.vm == vm]
        former = [member for member in former if member.child.run != run.mark]
        if not former or run.at is None or policy is ConcurrencyPolicy.ALLOW:
            return True
        if policy is ConcurrencyPolicy.REPLACE:
            for member in former:
                self._children.cancel(schedule, member, run)
            return True
        note = f"VM {vm} is left out of the run of {_called(run)}: {former[0].child.name} is not over (Forbid)."
        log.info("schedule %s: %s", schedule.key, note)
        self._tell(schedule, "Warning", Reason.MISSED_RUNS, note)
        return False

    def _say(self, schedule: VMBackupSchedule, planned: Plan | None, retention: RetentionReport | None) -> None:
        if planned is not None and planned.missed is not None:
            log.warning("schedule %s: %s", schedule.key, missed_words(planned.missed))
            self._tell(schedule, "Warning", Reason.MISSED_RUNS, missed_words(planned.missed))
        if planned is not None and planned.jumped:
            note = "The clock went back by more than an hour since the last run; the schedule goes on from now."
            log.warning("schedule %s: %s", schedule.key, note)
            self._tell(schedule, "Warning", Reason.CLOCK_JUMPED, note)
        broken = schedule.status.retention.broken if schedule.status.retention else 0
        if retention is not None and retention.broken > broken:
            names = ", ".join(one.name for one in retention.sets if one.keep and one.reasons[0].startswith("broken"))
            self._tell(schedule, "Warning", Reason.SET_BROKEN, f"Sets are broken, and count for no rule: {names}")

    def _tell(self, schedule: VMBackupSchedule, kind: str, reason: Reason, note: str) -> None:
        self._writer.tell(
            SCHEDULE, schedule.metadata, "Warning" if kind == "Warning" else "Normal", (reason, "Run", note)
        )


def _outlook(schedule: VMBackupSchedule, vms: Sequence[str], now: float) -> Outlook:
    try:
        return Outlook(vms, plan(schedule, now))
    except ValueError as error:
        return Outlook(vms, problem=str(error))


def _called(run: Run) -> str:
    return rfc3339(run.at) if run.at is not None else f"trigger {run.trigger!r}"
