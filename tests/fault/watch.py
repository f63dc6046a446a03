"""Eyes that stay open during a cell: all that the resource says, and every name that is ever used."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmbackup.cluster.resources import VMBACKUP, Kind, Resources
from vmbackup.errors import VMBackupError

LOOK_SECONDS = 0.02
READ_SECONDS = 0.1


class Watch:
    """Reads one resource ten times a second, and the names in some directories fifty times."""

    def __init__(
        self, resources: Resources, namespace: str, name: str, directories: Iterable[Path], kind: Kind = VMBACKUP
    ) -> None:
        self.said: dict[str, None] = {}  # in the order in which it was said
        self.used_again: set[str] = set()
        self._resources, self._kind, self._namespace, self._name = resources, kind, namespace, name
        self._directories = {directory: _device(directory) for directory in directories}
        self._ended = threading.Event()
        self._present: dict[Path, set[str]] = {directory: set() for directory in self._directories}
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
                    self.hear(self._resources.get(self._kind, self._name, self._namespace))
                except VMBackupError:
                    continue

    def _look_at_names(self) -> None:
        for directory, device in self._directories.items():
            try:
                names = _names(directory)
                away = _device(directory) != device
            except OSError:
                continue
            if away:
                continue  # a file system that is not mounted hides its names, it does not free them
            self.used_again |= names & self._gone
            self._gone |= self._present[directory] - names
            self._present[directory] = names


def _names(directory: Path) -> set[str]:
    """Raises: OSError: the file system does not answer."""
    try:
        return {f"{path}" for path in directory.iterdir() if path.name.startswith(".")}
    except FileNotFoundError:
        return set()


def _device(directory: Path) -> int:
    """Return the file system that a directory is in, or will be."""
    while not directory.exists():
        directory = directory.parent
    return directory.stat().st_dev
