"""Waiting for a moment in which nobody else works on the machine."""

import time
from pathlib import Path

LOOK_SECONDS = 0.3
SETTLE_SECONDS = 1.0  # the file system frees what was removed a moment ago
IDLE_PART = 0.75


class Calm:
    """`disturbed`: how many samples were begun although others worked, because they did so for too long."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self.samples = 0
        self.disturbed = 0

    def wait(self) -> None:
        """Return when three quarters of the processors' time are idle, or when the patience is over."""
        self.samples += 1
        time.sleep(SETTLE_SECONDS)
        deadline = time.monotonic() + self._patience_seconds
        while idle_part(LOOK_SECONDS) < IDLE_PART:
            if time.monotonic() > deadline:
                self.disturbed += 1
                return


def idle_part(seconds: float) -> float:
    """Return the part of the processors' time that is idle during the next seconds; waiting for a disk is not idle."""
    before = _times()
    time.sleep(seconds)
    spent = [after - earlier for earlier, after in zip(before, _times(), strict=True)]
    return spent[3] / max(1, sum(spent))


def _times() -> list[int]:
    """Return user, nice, system, idle, iowait, irq, softirq and steal time of all processors (proc(5))."""
    return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
