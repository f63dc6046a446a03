"""The ledger of restores with a voice: what changes for a restore also becomes an Event."""

from collections.abc import Callable
from typing import Literal

from vmbackup.api.restore import RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Executor, ObjectMeta, Outcome
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.resources import VMRESTORE, Resources
from vmbackup.cluster.restore_ledger import RestoreStatusLedger
from vmbackup.core.restore_facts import RestoreFacts


class EventfulRestoreLedger(RestoreStatusLedger):
    """Also records an Event for a start, a running VM, an obstacle and an end."""

    def __init__(
        self, resources: Resources, executor: Executor, recorder: Recorder, *, now: Callable[[], float]
    ) -> None:
        super().__init__(resources, executor, now=now)
        self._recorder = recorder
        self._told: dict[str, tuple[object, ...]] = {}

    def report(self, run: RestoreRun, facts: RestoreFacts) -> None:
        super().report(run, facts)
        mark = (run.trouble, run.outcome, run.running_at, run.phase is RestorePhase.DONE)
        before = self._told.get(run.uid)
        if mark == before:
            return
        self._told[run.uid] = mark
        metadata = ObjectMeta(name=run.name, namespace=run.namespace, uid=run.uid)
        if run.failure is not None:
            self.tell(metadata, "Warning", run.failure.reason, run.failure.message)
        elif run.trouble:
            self.tell(metadata, "Warning", "Retrying", run.trouble)
        elif run.phase is RestorePhase.DONE and run.outcome is Outcome.SUCCEEDED:
            self.tell(metadata, "Normal", "Completed", f"{run.label} is restored from {run.set_path}")
        elif run.running_at is not None and (before is None or before[2] is None):
            self.tell(metadata, "Normal", "Started", f"VM {run.domain} runs")

    def tell(self, metadata: ObjectMeta, type_: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        self._recorder.record(Happening(VMRESTORE.name, metadata, type_, reason, "Restore", note))

    def forget(self, uid: str) -> None:
        self._told.pop(uid, None)
        super().forget(uid)
