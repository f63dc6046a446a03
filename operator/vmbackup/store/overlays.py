"""Our overlays: how large they are, and the removal of one that is of no use any more."""

import os
import stat
from contextlib import suppress

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.errors import Failed
from vmbackup.store.locks import is_open
from vmbackup.store.paths import DIRECTORY_MODE, open_file


def overlay_bytes(run: Run) -> dict[str, int]:
    """Return the space that each existing overlay occupies.

    One that cannot be looked at counts as there, with 0 bytes: "missing" would mean that it is merged.
    """
    sizes: dict[str, int] = {}
    for disk in run.disks:
        if disk.overlay:
            try:
                sizes[disk.target] = os.lstat(disk.overlay).st_blocks * 512
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                sizes[disk.target] = 0
    return sizes


def written_at(run: Run) -> dict[str, float]:
    """Return when each base and each overlay was last written to, by path: seconds, as their file system counts them.

    A block device says nothing of the kind. Like `overlay_free_bytes` this is asked of the VM's own file systems.
    """
    times: dict[str, float] = {}
    for path in (path for disk in run.disks if disk.overlay for path in (disk.source, disk.overlay)):
        with suppress(OSError):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                times[path] = status.st_mtime
    return times


def overlay_free_bytes(run: Run) -> int | None:
    """Return the least free space beside the overlays, None without overlays.

    Nothing guards this against a file system that does not answer: the VM itself would wait for it.
    """
    free: list[int] = []
    for directory in {os.path.dirname(disk.overlay) for disk in run.disks if disk.overlay}:
        try:
            space = os.statvfs(directory)
        except OSError:
            continue
        free.append(space.f_bavail * space.f_frsize)
    return min(free, default=None)


def make_overlay_directory(run: Run) -> None:
    """Make the directory for overlays of block devices; those of files lie beside their files.

    QEMU's user must pass through it. Raises: OSError.
    """
    if any(os.path.dirname(disk.overlay) == run.overlay_directory for disk in run.disks if disk.overlay):
        os.makedirs(run.overlay_directory, mode=DIRECTORY_MODE, exist_ok=True)


def remove_overlay(run: Run, target: str) -> None:
    """Remove our overlay of one disk, durable; that it is gone already is fine.

    Raises: Failed: the file is not our overlay, or another process has it open. OSError: the file system refused.
    """
    path = run.disk(target).overlay
    directory_path, name = os.path.split(path)
    if names.overlay_uid(name) != run.uid or not directory_path.startswith("/"):
        raise _kept(run, target, "its name does not carry the UID of this backup")
    directory = os.open(directory_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(directory, name, run, target)
        os.unlink(name, dir_fd=directory)
        os.fsync(directory)
    except FileNotFoundError:
        return
    finally:
        os.close(directory)


def _check(directory: int, name: str, run: Run, target: str) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise _kept(run, target, "it is not a regular file")
    file = open_file(directory, name)
    try:
        if is_open(file):
            raise _kept(run, target, "another process has it open")
    finally:
        os.close(file)


def _kept(run: Run, target: str, words: str) -> Failed:
    path = run.disk(target).overlay
    return Failed(Reason.STORE_ERROR, f"VM {run.domain}, disk {target}: the overlay {path} was not removed: {words}")
