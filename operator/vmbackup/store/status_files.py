"""The second ledger: the status in a file per backup, for a host without a cluster."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import yaml

from vmbackup.api import names
from vmbackup.api.journal import Run
from vmbackup.api.model import Report
from vmbackup.api.vmbackup import VMBackupStatus
from vmbackup.core.facts import Facts, Wishes
from vmbackup.core.ports import Clock
from vmbackup.core.report import status_of

log = logging.getLogger(__name__)


def write_status(directory: Path, prefix: str, kind: str, key: str, status: Report) -> None:
    """Write a resource with its status as one file, `<prefix><namespace>-<name>.yaml`, in place of the old one.

    By libyaml: it takes a tenth of the time, which a short backup would notice. Raises: OSError: it cannot be written.
    """
    namespace, _, name = key.partition("/")
    document = {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"namespace": namespace, "name": name},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    path = directory / f"{prefix}{namespace}-{name}.yaml"
    fresh = path.with_suffix(".new")
    fresh.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
    os.replace(fresh, path)


class StatusFiles:
    """Writes statuses as YAML, whole or not at all, on every change; also hands them to a listener.

    `listen(key, status)` gets `namespace/name`. `cancel` is what Ctrl-C calls: every run goes home.
    """

    def __init__(self, directory: Path, clock: Clock, listen: Callable[[str, VMBackupStatus], None]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._clock = clock
        self._listen = listen
        self._cancelled = threading.Event()
        self._statuses: dict[str, VMBackupStatus] = {}

    def status(self, key: str) -> VMBackupStatus:
        """Return what was told last of a backup."""
        return self._statuses.get(key, VMBackupStatus())

    def report(self, run: Run, facts: Facts) -> None:
        """Tell how a run stands; a status that cannot be written is logged: the run goes on."""
        self.put(run.key, status_of(run, facts, self.status(run.key), self._clock.now(), generation=1))

    def put(self, key: str, status: VMBackupStatus) -> None:
        """Write a status and tell the listener, when it is new."""
        if status == self._statuses.get(key):
            return
        self._statuses[key] = status
        try:
            self._write(key, status)
        except OSError as error:
            log.warning("%s: its status cannot be written to %s: %s", key, self._directory, error)
        self._listen(key, status)

    def _write(self, key: str, status: VMBackupStatus) -> None:
        write_status(self._directory, "", "VMBackup", key, status)

    def wishes(self, run: Run) -> Wishes:
        return Wishes(cancel=self._cancelled.is_set())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
