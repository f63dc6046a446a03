"""In place: the new image is made beside the old one and takes its name by one rename; the old one keeps another name.

Who has which name is all that is needed to go on or back after a crash:
    new, no old     nothing was changed
    new and old     the old image has two names; the rename did not come
    old, no new     changed
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmbackup.api.conditions import Reason
from vmbackup.api.restore_journal import RestoreDisk, RestoreRun
from vmbackup.errors import Failed, Refused
from vmbackup.store.locks import is_open


def check_own_disk(run: RestoreRun, disk: RestoreDisk) -> None:
    """Look whether the VM's own image may be replaced. Raises: Refused: it may not."""
    path = Path(disk.file)
    what = f"VM {run.domain}, disk {disk.target}"
    try:
        seen = path.lstat()
    except FileNotFoundError:
        if path.parent.is_dir():
            return  # lost: nothing is to be kept
        raise Refused(Reason.TARGET_UNSUPPORTED, f"{what}: the directory {path.parent} is missing.") from None
    if not stat.S_ISREG(seen.st_mode):
        raise Refused(Reason.TARGET_UNSUPPORTED, f"{what}: {path} is a link or no regular file, and is not replaced.")
    old = run.old_file(disk)
    if os.path.lexists(old) and not os.path.lexists(run.working_file(disk)):
        raise Refused(Reason.TARGET_EXISTS, f"{what}: {old} exists; an earlier restore has left it. Remove it first.")
    if _is_used(disk.file):
        raise Refused(Reason.VM_RUNNING, f"{what}: another process has {path} open; end it first.")


def is_swapped(run: RestoreRun, disk: RestoreDisk) -> bool:
    """Return whether the new image has the disk's name."""
    return not os.path.lexists(run.working_file(disk)) and os.path.lexists(_kept(run, disk))


def is_old_used(run: RestoreRun, disk: RestoreDisk) -> bool:
    """Return whether QEMU has the old image of a swapped disk open.

    A VM may be started between the last look at it and the rename: then it runs on an image that has lost its name.
    """
    old = run.old_file(disk)
    return os.path.lexists(old) and _is_used(old)


def swap(run: RestoreRun, disk: RestoreDisk) -> None:
    """Keep the old image under its other name, then give its name to the new one. Raises: Failed, OSError."""
    new, old = run.working_file(disk), run.old_file(disk)
    with _directory(disk) as directory:
        if not os.path.lexists(new):
            return
        _like_the_old(disk, new)
        if not os.path.lexists(disk.file):
            Path(_marker(run, disk)).touch(mode=0o600, exist_ok=True)  # there is no old image to go back to
        elif not os.path.lexists(old):
            os.link(disk.file, old, follow_symlinks=False)
        elif not os.path.samefile(disk.file, old):
            raise Failed(Reason.TARGET_EXISTS, f"{old} exists and is not the image {disk.file}; nothing was changed")
        os.fsync(directory)
        os.rename(new, disk.file)
        os.fsync(directory)


def swap_back(run: RestoreRun, disk: RestoreDisk) -> None:
    """Give the old image its name back; the new one is gone then. Raises: OSError."""
    old, marker = run.old_file(disk), _marker(run, disk)
    with _directory(disk) as directory:
        if os.path.lexists(run.working_file(disk)):
            return
        if os.path.lexists(marker):
            Path(disk.file).unlink(missing_ok=True)
            os.unlink(marker)
        elif os.path.lexists(old):
            os.rename(old, disk.file)
        os.fsync(directory)


def remove_new(run: RestoreRun, disk: RestoreDisk) -> None:
    """Remove what was made beside a disk that still has its old image. Raises: OSError."""
    new, old = Path(run.working_file(disk)), Path(run.old_file(disk))
    if not Path(disk.file).parent.is_dir():
        return
    with _directory(disk) as directory:
        if new.exists() and old.exists() and Path(disk.file).exists() and os.path.samefile(disk.file, old):
            old.unlink()
        new.unlink(missing_ok=True)
        Path(_marker(run, disk)).unlink(missing_ok=True)
        os.fsync(directory)


def remove_old(run: RestoreRun, disk: RestoreDisk, *, keep: bool) -> None:
    """End the swap: the old image goes, or stays under its other name. Raises: OSError."""
    with _directory(disk) as directory:
        if not keep:
            Path(run.old_file(disk)).unlink(missing_ok=True)
        Path(_marker(run, disk)).unlink(missing_ok=True)
        os.fsync(directory)


def _is_used(path: str) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return is_open(file)
    finally:
        os.close(file)


def _kept(run: RestoreRun, disk: RestoreDisk) -> str:
    marker = _marker(run, disk)
    return marker if os.path.lexists(marker) else run.old_file(disk)


def _marker(run: RestoreRun, disk: RestoreDisk) -> str:
    return f"{run.working_file(disk)}.lost"


def _like_the_old(disk: RestoreDisk, new: str) -> None:
    """Give the new image owner and mode of the old one; libvirt gives it to QEMU's user when the VM starts."""
    try:
        seen = os.lstat(disk.file)
    except FileNotFoundError:
        return
    os.chown(new, seen.st_uid, seen.st_gid, follow_symlinks=False)
    os.chmod(new, stat.S_IMODE(seen.st_mode))


@contextmanager
def _directory(disk: RestoreDisk) -> Iterator[int]:
    file = os.open(os.path.dirname(disk.file), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
