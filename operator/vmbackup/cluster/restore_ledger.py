"""The ledger of an agent's restores: the status of its VMRestores, written as those of backups are."""

from collections.abc import Callable
from typing import Any

from vmbackup.api.restore import RestorePhase, VMRestore, VMRestoreStatus
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.cluster.ledger import StatusWriter
from vmbackup.cluster.resources import VMRESTORE, Kind
from vmbackup.core.facts import Wishes
from vmbackup.core.kstatus import Stamp
from vmbackup.core.restore_facts import RestoreFacts
from vmbackup.core.restore_report import refused, restore_status, waiting
from vmbackup.errors import VMBackupError


class RestoreStatusLedger(StatusWriter):
    """Implements core.restore_facts.RestoreLedger."""

    kind: Kind = VMRESTORE
    parse: Callable[[Any], Any] = VMRestoreStatus.model_validate

    def report(self, run: RestoreRun, facts: RestoreFacts) -> None:
        """Tell how the restore stands. Never blocks and never raises: the last report wins."""
        at = self._now()

        def status(previous: VMRestoreStatus, generation: int) -> VMRestoreStatus:
            return restore_status(run, facts, previous, at, generation=generation, executor=self._executor)

        with self._changed:
            self._letter(run.uid, run.namespace, run.name).put(status, (run.phase, run.outcome, run.running_at))
            self._changed.notify_all()

    def wishes(self, run: RestoreRun) -> Wishes:
        return self.wished(run.uid)

    def waits(self, restore: VMRestore, reason: VMBackupError) -> None:
        """Tell that a restore cannot begin yet. Never blocks and never raises."""
        self._tell(restore, waiting, reason, reason.reason)

    def refuses(self, restore: VMRestore, reason: VMBackupError) -> None:
        """Tell that a restore ended before anything was touched. Never blocks and never raises."""
        self._tell(restore, refused, reason, RestorePhase.DONE)

    def _tell(
        self,
        restore: VMRestore,
        change: Callable[[VMRestoreStatus, str, str, Stamp], VMRestoreStatus],
        reason: VMBackupError,
        mark: object,
    ) -> None:
        at = self._now()

        def status(previous: VMRestoreStatus, generation: int) -> VMRestoreStatus:
            told = change(previous, reason.reason, reason.message, Stamp(at, generation))
            return told.model_copy(update={"executor": self._executor})

        metadata = restore.metadata
        with self._changed:
            self._letter(metadata.uid, metadata.namespace, metadata.name).put(status, mark)
            self._changed.notify_all()
