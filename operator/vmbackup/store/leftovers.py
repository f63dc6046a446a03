"""Unfinished sets of which nobody knows any more: their journal was lost, and their VMBackup is gone too.

They are named, not removed: in a location that nodes share, only the node that has made such a directory could be sure
that nothing goes on in it. What belongs to a VMBackup that still exists goes with its next attempt (see `sets`).
"""

import os
from collections.abc import Iterator
from contextlib import suppress

from vmbackup.api import names
from vmbackup.errors import VMBackupError
from vmbackup.store.asking import Asker
from vmbackup.store.paths import enter, location_directory

UNTOUCHED_SECONDS = 86_400.0  # a copy that runs is written to all the time
ANSWER_SECONDS = 30.0  # a location may hold thousands of VMs
MOST_NAMED = 3

_asker = Asker(ANSWER_SECONDS)


def leftover_words(path: str, now: float) -> str:
    """Name the unfinished sets that nobody has written to for a day; empty when there are none. Never raises or hangs.

    now: the system's time, seconds since the epoch.
    """
    try:
        found = _asker.ask(path, lambda: sorted(_leftovers(path, now)))
    except (VMBackupError, OSError):
        return ""  # what is wrong with the location is told by who asks for its space
    if not found:
        return ""
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    shown = ", ".join(f"{path}/{each}" for each in found[:MOST_NAMED])
    return f"unfinished sets that nobody has written to for a day: {shown}{more}; remove those of no running backup"


def _leftovers(path: str, now: float) -> Iterator[str]:
    with location_directory(path) as location:
        for namespace, vms in _directories(location):
            for vm, sets in _directories(vms):
                for name, partial in _directories(sets):
                    if names.partial_uid(name) and now - _last_written(partial) > UNTOUCHED_SECONDS:
                        yield f"{namespace}/{vm}/{name}"


def _directories(directory: int) -> Iterator[tuple[str, int]]:
    """Yield name and descriptor of each directory in a directory; links are left out."""
    for name in os.listdir(directory):
        with suppress(FileNotFoundError, VMBackupError):
            inner = enter(directory, name, name)
            try:
                yield name, inner
            finally:
                os.close(inner)


def _last_written(directory: int) -> float:
    times = [os.fstat(directory).st_mtime]
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):
            times.append(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime)
    return max(times)
