"""Proofs, as far as the controller is concerned: VMRestores for schedules, and results told by VMBackups."""

import logging
from functools import partial

from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import ObjectMeta, ProofRecord, VMBackup
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import Conflict, Denied, NotFound
from vmbackup.cluster.resources import VMBACKUP, VMRESTORE
from vmbackup.controller.children import Family
from vmbackup.controller.writer import Writer
from vmbackup.core.kstatus import Stamp
from vmbackup.core.proofs import Proposal, due, record_of, restore_body, tried, with_proof

log = logging.getLogger(__name__)


class Proving:
    """Begins the proofs that are due, and joins the results to the VMBackups of the sets."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._joined: set[str] = set()  # UIDs of VMRestores whose result is told

    def begin(self, schedule: VMBackupSchedule, family: Family, now: float) -> None:
        """Make the VMRestores of what is due. Raises: APIServerAway."""
        if schedule.spec.proof is None or schedule.spec.suspend:
            return
        here = [
            each for each in self._writer.cache.restores() if each.metadata.namespace == schedule.metadata.namespace
        ]
        uids = {member.child.name: member.metadata.uid for member in family}
        made = {restore.metadata.name for restore in here}
        children = [member.child for member in family]
        for proposal in due(schedule, children, tried(schedule, here), now):
            if proposal.name not in made:
                self._make(schedule, proposal, uids[proposal.child.name])

    def _make(self, schedule: VMBackupSchedule, proposal: Proposal, uid: str) -> None:
        try:
            body = self._writer.resources.create(VMRESTORE, restore_body(schedule, proposal, uid))
        except Conflict:
            return  # made before, and the watch has not told of it yet
        except (Denied, NotFound) as refusal:
            log.warning("schedule %s: the proof of %s: %s", schedule.key, proposal.child.name, refusal.message)
            return
        self._writer.wrote(VMRESTORE, body)
        log.info("schedule %s: %s of %s begins: %s", schedule.key, proposal.kind, proposal.child.name, proposal.name)

    def join(self, now: float) -> None:
        """Let the VMBackups tell what proofs have found of their sets. Raises: APIServerAway."""
        restores = self._writer.cache.restores()
        self._joined &= {restore.metadata.uid for restore in restores}
        news: list[tuple[ProofRecord, tuple[str, str, str], str]] = []
        for restore in restores:
            record = record_of(restore) if restore.metadata.uid not in self._joined else None
            if record is not None:
                where = (restore.metadata.namespace, restore.status.location or "", restore.status.set or "")
                news.append((record, where, restore.metadata.uid))
        if not news:
            return
        by_set = {
            (one.metadata.namespace, one.child.location, one.child.path): one.metadata
            for one in self._writer.cache.finished()
        }
        for record, where, uid in sorted(news, key=lambda one: one[0].time):
            metadata = by_set.get(where)  # a set without a VMBackup has its result beside it
            if metadata is None or self._writer.write(VMBACKUP, metadata, partial(self._note, record, metadata, now)):
                self._joined.add(uid)

    def _note(self, record: ProofRecord, metadata: ObjectMeta, now: float, _: Body) -> None:
        body = self._writer.resources.get(VMBACKUP, metadata.name, metadata.namespace)
        backup = VMBackup.parse(body)
        if backup.metadata.uid != metadata.uid:
            return
        status = with_proof(backup.status, record, Stamp(now, backup.metadata.generation))
        written = self._writer.resources.patch_status(VMBACKUP, body, status)
        if written is body:
            return
        self._writer.wrote(VMBACKUP, written)
        log.info("%s: %s by VMRestore %s: %s", backup.key, record.kind, record.restore, record.message)
        kind, reason = ("Normal", "Proved") if record.succeeded else ("Warning", "ProofFailed")
        note = f"{record.kind} by VMRestore {record.restore}: {record.message}"
        self._writer.tell(VMBACKUP, metadata, "Normal" if kind == "Normal" else "Warning", (reason, "Prove", note))
