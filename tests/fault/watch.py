"""Eyes that stay open during a cell: all that the resource says, and every name that is ever used."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmbackup.cluster.resources import VMBACKUP, Resources
from vmbackup.errors import VMBackupError

LOOK_SECONDS = 0.02
READ_SECONDS = 0.1


class Watch:
    """Reads one VMBackup ten times a second, and the names in some directories fifty times."""

    def __init__(self, resources: Resources, namespace: str, name: str, directories: Iterable[Path]) -> None:
        self.said: dict[str, None] = {}  # in the order in which it was said
        self.used_again: set[str] = set()
        self._resources, self._namespace, self._name = resources, namespace, name
        self._directories = tuple(directories)
        self._ended = threading.Event()
        self._present: set[str] = set()
        self._gone: set[str] = set()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def hear(self, body: dict[str, Any]) -> None:
        for condition in body.get("status", {}).get("conditions", ()):
            self.said.setdefault(f"{condition['type']}: {condition['reason']}: {condition.get('message', '')}")

    def _watch(self) -> None:
        read_at = 0.0
        while not self._ended.wait(LOOK_SECONDS):
            self._look_at_names()
            if time.monotonic() >= read_at:
                read_at = time.monotonic() + READ_SECONDS
                try:
                    self.hear(self._resources.get(VMBACKUP, self._name, self._namespace))
                except VMBackupError:
                    continue

    def _look_at_names(self) -> None:
        names = set(self._names())
        self.used_again |= names & self._gone
        self._gone |= self._present - names
        self._present = names

    def _names(self) -> Iterable[str]:
        for directory in self._directories:
            try:
                yield from (f"{path}" for path in directory.iterdir() if path.name.startswith("."))
            except OSError:
                continue
