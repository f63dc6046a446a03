"""The VMBackups of schedules: found by their label, made under names that collide, cancelled for the next one."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.restore import VMRestore
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import ObjectMeta
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import Conflict, Denied, NotFound
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP
from vmbackup.controller.writer import Writer
from vmbackup.core.children import Child, child_of, used
from vmbackup.core.schedule import Run, child_name

log = logging.getLogger(__name__)


class Member(NamedTuple):
    """One child and the resource that it is."""

    metadata: ObjectMeta
    child: Child


Family = Sequence[Member]


class Children:
    """All VMBackups that carry the label of a schedule."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def families(self) -> dict[tuple[str, str], list[Member]]:
        """Return the children by namespace and name of their schedule. Those that are being deleted are none."""
        families: dict[tuple[str, str], list[Member]] = {}
        members = [Member(one.metadata, one.child) for one in self._writer.cache.finished() if one.child.schedule]
        members += [
            Member(backup.metadata, child_of(backup))
            for backup in self._writer.cache.backups()
            if names.LABEL_SCHEDULE in backup.metadata.labels
        ]
        restores: dict[str, list[VMRestore]] = {}
        for restore in self._writer.cache.restores():
            restores.setdefault(restore.metadata.namespace, []).append(restore)
        for metadata, child in members:
            if child.active or not metadata.deletion_timestamp:
                member = Member(metadata, used(child, restores.get(metadata.namespace, ())))
                families.setdefault((metadata.namespace, child.schedule), []).append(member)
        return families

    def make(self, schedule: VMBackupSchedule, run: Run, vm: str) -> str:
        """Make the child of one VM in one run, unless it is there; return why that was refused, empty when it was not.

        Raises: APIServerAway.
        """
        for plain in (True, False):
            name = child_name(schedule.metadata.name, vm, run.mark, plain=plain)
            try:
                body = self._writer.resources.create(VMBACKUP, _body(schedule, run, vm, name))
            except Conflict:
                if self._is_ours(schedule, run, vm, name):
                    return ""
            except (Denied, NotFound) as refusal:
                log.warning("schedule %s: VM %s: %s", schedule.key, vm, refusal.message)
                return f"VM {vm}: the API server refuses its VMBackup: {refusal.message}"
            else:
                self._writer.wrote(VMBACKUP, body)
                log.info("schedule %s: made %s", schedule.key, name)
                return ""
        note = f"VM {vm}: somebody else's VMBackup has the name {name}: delete it."
        self._writer.tell(SCHEDULE, schedule.metadata, "Warning", (Reason.NAME_TAKEN, "Run", note))
        return note

    def _is_ours(self, schedule: VMBackupSchedule, run: Run, vm: str, name: str) -> bool:
        """Return whether the object of this name is the child itself. One that is gone again was its."""
        try:
            there = self._writer.resources.get(VMBACKUP, name, schedule.metadata.namespace)
        except NotFound:
            return True
        labels = there["metadata"].get("labels") or {}
        marks = labels.get(names.LABEL_SCHEDULE), labels.get(names.LABEL_RUN), there["spec"]["source"]["name"]
        return marks == (schedule.metadata.name, run.mark, vm)

    def cancel(self, schedule: VMBackupSchedule, member: Member, run: Run) -> None:
        """Cancel a child that is under way, for the run that replaces it. Raises: APIServerAway."""
        self._writer.write(VMBACKUP, member.metadata, partial(self._do_cancel, schedule, run))

    def _do_cancel(self, schedule: VMBackupSchedule, run: Run, body: Body) -> None:
        if body["spec"].get("cancel"):
            return
        log.info("schedule %s: cancels %s for run %s", schedule.key, body["metadata"]["name"], run.mark)
        self._writer.wrote(VMBACKUP, self._writer.resources.merge(VMBACKUP, body, {"spec": {"cancel": True}}))


def _body(schedule: VMBackupSchedule, run: Run, vm: str, name: str) -> Body:
    """Return a child. Labels of tools that track what they have applied must not come along: they would prune it."""
    owner = {"apiVersion": names.API_VERSION, "kind": SCHEDULE.name, "name": schedule.metadata.name}
    template = schedule.spec.template.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "apiVersion": names.API_VERSION,
        "kind": VMBACKUP.name,
        "metadata": {
            "name": name,
            "namespace": schedule.metadata.namespace,
            "labels": {names.LABEL_SCHEDULE: schedule.metadata.name, names.LABEL_RUN: run.mark},
            "ownerReferences": [
                owner | {"uid": schedule.metadata.uid, "controller": True, "blockOwnerDeletion": False}
            ],
        },
        "spec": {"source": {"kind": str(schedule.spec.vms.kind), "name": vm}} | template,
    }
