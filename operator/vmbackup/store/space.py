"""What a location looks like from this node: usable or not, and how full."""

import os
from dataclasses import dataclass

from vmbackup.errors import VMBackupError
from vmbackup.store.asking import Asker
from vmbackup.store.paths import location_directory
from vmbackup.units import human_bytes, parse_bytes


@dataclass(frozen=True)
class Space:
    """`message` says what is wrong when not `ready`, and may warn when it is."""

    ready: bool
    message: str = ""
    free_bytes: int = 0
    total_bytes: int = 0


_asker = Asker()


def look(path: str, min_free: str) -> Space:
    """Look at a location. Never raises and never hangs; `min_free` is the location's, percent or bytes."""
    try:
        return _asker.ask(path, lambda: _look(path, min_free))
    except VMBackupError as error:
        return Space(ready=False, message=error.message)
    except OSError as error:
        return Space(ready=False, message=words_of(path, error))


def words_of(path: str, error: OSError) -> str:
    """Say what a file system's error means for a location."""
    return f"{path}: {error.strerror or error}; look at the file system and the kernel's log on this node"


def read_only_words(path: str) -> str:
    return f"{path} is read-only on this node; mount it for writing (a failing disk can make the kernel do this)"


def writable(directory: int) -> bool:
    """Return whether files can be made here: the mount, the file system and the permissions allow it."""
    return os.access(f"/proc/self/fd/{directory}", os.W_OK | os.X_OK)


def reserve_bytes(min_free: str, total_bytes: int) -> int:
    """Return the bytes that backups must leave free."""
    if min_free.endswith("%"):
        return total_bytes * int(min_free[:-1]) // 100
    return parse_bytes(min_free)


def _look(path: str, min_free: str) -> Space:
    with location_directory(path) as directory:
        space = os.fstatvfs(directory)
        free_bytes, total_bytes = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        if not writable(directory):
            return Space(ready=False, message=read_only_words(path), free_bytes=free_bytes, total_bytes=total_bytes)
    reserve = reserve_bytes(min_free, total_bytes)
    full = f"only {human_bytes(free_bytes)} are free and {human_bytes(reserve)} must stay so: new backups are refused"
    return Space(True, full if free_bytes <= reserve else "", free_bytes, total_bytes)
