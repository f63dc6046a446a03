"""Retention carried out: the VMBackups of sets that are no longer kept are deleted together with their sets."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from zoneinfo import ZoneInfoNotFoundError

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.schedule import RetentionReport, VMBackupSchedule
from vmbackup.api.spec import DeletionPolicy
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP
from vmbackup.controller.children import Family
from vmbackup.controller.writer import Writer
from vmbackup.core.children import judge_children, surplus
from vmbackup.core.retention import Verdict
from vmbackup.core.schedule_report import retention_report

MOST_NAMED = 10
LONGEST_ANNOTATION = 512

log = logging.getLogger(__name__)
Verdicts = Mapping[str, Sequence[Verdict]]


class Pruning:
    """Judges the sets of a schedule and removes what no rule keeps."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def judge(
        self, schedule: VMBackupSchedule, family: Family, locations: Mapping[str, VMBackupLocation]
    ) -> tuple[Verdicts, RetentionReport | None]:
        """Return the verdicts by VM, and the report for the status; with a policy that makes no sense all are kept."""
        if schedule.spec.retention is None:
            return {}, None
        try:
            verdicts = judge_children([member.child for member in family], schedule.spec.retention, locations)
        except (ZoneInfoNotFoundError, OSError, ValueError):
            zones = "spec.retention.timeZone, or that of a VMBackupLocation's retention, is none"
            return {}, retention_report({}, f"{zones}: nothing is removed until it is corrected")
        return verdicts, retention_report(verdicts)

    def prune(self, schedule: VMBackupSchedule, family: Family, verdicts: Verdicts) -> bool:
        """Remove what is to go, and failed children beyond the limit; return whether all of it was done.

        Raises: APIServerAway.
        """
        by_name = {member.child.name: member for member in family}
        dry_run = schedule.spec.retention is None or schedule.spec.retention.dry_run
        removed: list[str] = []
        all_done = True
        for verdict in (verdict for every in verdicts.values() for verdict in every):
            member = by_name[verdict.set.name]
            if verdict.keep and member.child.marked:
                all_done &= self._writer.write(VMBACKUP, member.metadata, self._spare)
            elif not verdict.keep and not dry_run:
                if self._writer.write(VMBACKUP, member.metadata, partial(self._remove, schedule, verdict)):
                    removed.append(verdict.set.name)
                else:
                    all_done = False
        if removed:
            more = f" and {len(removed) - MOST_NAMED} more" if len(removed) > MOST_NAMED else ""
            note = f"Retention removes {len(removed)} set(s): {', '.join(removed[:MOST_NAMED])}{more}"
            self._writer.tell(SCHEDULE, schedule.metadata, "Normal", (Reason.RETENTION, "Prune", note))
        for child in surplus((member.child for member in family), schedule.spec.failed_history_limit):
            all_done &= self._writer.write(VMBACKUP, by_name[child.name].metadata, partial(self._forget, schedule))
        return all_done

    def _remove(self, schedule: VMBackupSchedule, verdict: Verdict, body: Body) -> None:
        """Say that the set goes with the resource, then delete it exactly as it was judged."""
        metadata = body["metadata"]
        finalizers = [*(metadata.get("finalizers") or ())]
        by = f"{names.RETENTION_OF}{schedule.metadata.name}: {'; '.join(verdict.reasons)}"[:LONGEST_ANNOTATION]
        if names.FINALIZER_SET not in finalizers:
            finalizers.append(names.FINALIZER_SET)
        changes = {
            "metadata": {"finalizers": finalizers, "annotations": {names.ANNOTATION_REMOVED_BY: by}},
            "spec": {"deletionPolicy": str(DeletionPolicy.DELETE)},
        }
        marked = self._writer.wrote(VMBACKUP, self._writer.resources.merge(VMBACKUP, body, changes))
        self._writer.delete(VMBACKUP, marked)
        log.info("%s/%s: removed with its set by %s", metadata["namespace"], metadata["name"], by)

    def _spare(self, body: Body) -> None:
        """Take a mark back: a changed policy keeps the set after all."""
        changes = {
            "metadata": {"annotations": {names.ANNOTATION_REMOVED_BY: None}},
            "spec": {"deletionPolicy": str(DeletionPolicy.RETAIN)},
        }
        self._writer.wrote(VMBACKUP, self._writer.resources.merge(VMBACKUP, body, changes))

    def _forget(self, schedule: VMBackupSchedule, body: Body) -> None:
        metadata = body["metadata"]
        self._writer.delete(VMBACKUP, body)
        log.info("schedule %s: %s removed, failedHistoryLimit", schedule.key, metadata["name"])
