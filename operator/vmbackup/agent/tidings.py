"""The agent's ledger with a voice: what changes for a backup also becomes an Event."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import ObjectMeta, Outcome, Phase, VMBackup
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.ledger import StatusLedger
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.core.facts import Facts, Wishes
from vmbackup.errors import Refused, VMBackupError

ACTION = "Backup"


class EventfulLedger:
    """Implements core.ports.Ledger on a StatusLedger; adds an Event for a start, an obstacle and an end.

    `notice` is shown every report, too.
    """

    def __init__(
        self, ledger: StatusLedger, recorder: Recorder, notice: Callable[[Run], None] = lambda _run: None
    ) -> None:
        self._ledger, self._recorder, self.notice = ledger, recorder, notice
        self._told: dict[str, tuple[object, ...]] = {}
        self.stopping = False

    def report(self, run: Run, facts: Facts) -> None:
        self.notice(run)
        self._ledger.report(run, facts)
        mark = (run.trouble, run.attempt, run.outcome, run.phase is Phase.DONE, run.phase is Phase.ASSIGNED)
        before = self._told.get(run.uid)
        if mark != before:
            self._told[run.uid] = mark
            new_trouble = run.trouble != "" and (before is None or run.trouble != before[0])
            self._tell(run, first=before is None, new_trouble=new_trouble)

    def wishes(self, run: Run) -> Wishes:
        return replace(self._ledger.wishes(run), stopping=self.stopping)

    def stop(self) -> None:
        """Let every run know that the agent is about to end."""
        self.stopping = True

    def wished(self, uid: str) -> Wishes:
        return self._ledger.wished(uid)

    def heard(self, uid: str, wishes: Wishes) -> None:
        self._ledger.heard(uid, wishes)

    def flush(self, uid: str, timeout_seconds: float) -> bool:
        return self._ledger.flush(uid, timeout_seconds)

    def forget(self, uid: str) -> None:
        self._told.pop(uid, None)
        self._ledger.forget(uid)

    def waits(self, backup: VMBackup, reason: VMBackupError) -> None:
        self._ledger.waits(backup, reason)
        self._record(backup.metadata, "Normal", reason.reason, reason.message)

    def refuses(self, backup: VMBackup, reason: Refused) -> None:
        self._ledger.refuses(backup, reason)
        self._record(backup.metadata, "Warning", reason.reason, reason.message)

    def _tell(self, run: Run, *, first: bool, new_trouble: bool) -> None:
        metadata = ObjectMeta(name=run.name, namespace=run.namespace, uid=run.uid)
        if new_trouble and run.phase is not Phase.DONE:
            self._record(metadata, "Warning", "Retrying", run.trouble)
        elif run.failure is not None and (run.outcome is not None or run.phase is Phase.ASSIGNED):
            note = f"{run.failure.message} (attempt {run.attempt})"
            self._record(metadata, "Warning", run.failure.reason, note)
        elif run.outcome is Outcome.SUCCEEDED:
            self._record(metadata, "Normal", "Completed", f"VM {run.vm} is backed up: {run.set_path}")
        elif run.trouble:
            self._record(metadata, "Warning", "Retrying", run.trouble)
        elif first:
            self._record(metadata, "Normal", "Started", f"{run.method} backup of VM {run.vm}: {run.method_reason}")

    def _record(self, metadata: ObjectMeta, type_: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        self._recorder.record(Happening(VMBACKUP.name, metadata, type_, reason, ACTION, note))


class QuietLedger:
    """For a run of which no more than the UID is known: there is nobody to be told."""

    def __init__(self, ledger: EventfulLedger) -> None:
        self._ledger = ledger

    def report(self, run: Run, facts: Facts) -> None:
        """Tell nobody; the log says how it ended."""
        self._ledger.notice(run)

    def wishes(self, run: Run) -> Wishes:
        return Wishes(stopping=self._ledger.stopping)
