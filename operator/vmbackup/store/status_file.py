"""The second ledger: the status in a file, for a host without a cluster."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import yaml

from vmbackup.api import names
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import VMBackupStatus
from vmbackup.core.facts import Facts, Wishes
from vmbackup.core.ports import Clock
from vmbackup.core.report import status_of


class StatusFile:
    """Writes the status as YAML, whole or not at all, on every change; also hands it to a listener.

    `cancel` is what Ctrl-C calls: the run goes home.
    """

    def __init__(self, path: Path, clock: Clock, listen: Callable[[VMBackupStatus], None]) -> None:
        self._path = path
        self._clock = clock
        self._listen = listen
        self._cancelled = threading.Event()
        self.status = VMBackupStatus()

    def report(self, run: Run, facts: Facts) -> None:
        self.put(run.namespace, run.name, status_of(run, facts, self.status, self._clock.now(), generation=1))

    def put(self, namespace: str, name: str, status: VMBackupStatus) -> None:
        """Write a status and tell the listener, when it is new."""
        if status == self.status:
            return
        self.status = status
        document = {
            "apiVersion": names.API_VERSION,
            "kind": "VMBackup",
            "metadata": {"namespace": namespace, "name": name},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(yaml.safe_dump(document, sort_keys=False))
        os.replace(temporary, self._path)
        self._listen(status)

    def wishes(self, run: Run) -> Wishes:
        return Wishes(cancel=self._cancelled.is_set())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
