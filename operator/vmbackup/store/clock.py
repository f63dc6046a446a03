"""A clock that nobody can turn back: deadlines and overlay ages must not follow a jump of the system's clock.

The system's time is read once, when nothing is under way; from then on the kernel's time since boot is added, which
also counts while the machine sleeps. The sum survives a restart of the process, and is taken anew after a reboot.
"""

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger(__name__)


class SteadyClock:
    """The Clock port. `<state>/clock.json` keeps the offset between the system's time and the time since boot."""

    def __init__(self, state: Path, *, busy: bool) -> None:
        """`busy`: runs of this boot are under way, whose times must stay comparable."""
        self._path = state / "clock.json"
        kept = self._read() if busy else None
        self._offset_seconds = time.time() - _since_boot() if kept is None else kept
        if kept is None:
            self._write()

    def now(self) -> float:
        return self._offset_seconds + _since_boot()

    def _read(self) -> float | None:
        try:
            kept = json.loads(self._path.read_text())
            return float(kept["offsetSeconds"]) if kept["bootId"] == boot_id() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self) -> None:
        """On a disk that is full nothing is kept, nor an older offset: VMs must come home from there, too."""
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps({"bootId": boot_id(), "offsetSeconds": self._offset_seconds}))
            os.replace(fresh, self._path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._path, error)
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return what tells this run of the node from the ones before."""
    return BOOT_ID.read_text().strip()
