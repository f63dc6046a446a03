"""Directories opened component by component, so that no link can lead out of where an administrator pointed to.

Every descriptor is opened with O_NOFOLLOW relative to the one before: what was checked is what is used.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed, NotYet, Refused

DIRECTORY_MODE = 0o711  # QEMU's user must pass through to its push target; names are no secret, files are 0600
FILE_MODE = 0o600
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def location_directory(path: str) -> Iterator[int]:
    """Open a location: an absolute path to an existing directory without a single link in it.

    Raises:
        NotYet: the path is missing: perhaps not mounted yet.
        Refused: the path is not a directory, has a link in it, or is open to every user of the node.
        OSError: the file system is in trouble.
    """
    if not path.startswith("/"):
        raise _unusable(f"{path!r} is not an absolute path; write the location's path from /")
    directory = os.open("/", _DIRECTORY)
    walked = ""
    try:
        for name in path.strip("/").split("/"):
            walked = f"{walked}/{name}"
            below = _enter_location(directory, name, walked, path)
            os.close(directory)
            directory = below
            _check_writers(directory, walked, path)
        yield directory
    finally:
        os.close(directory)


def _enter_location(directory: int, name: str, walked: str, path: str) -> int:
    if not plain(name):
        raise _unusable(f"{path!r} has the part {name!r}; write the location's path without '.', '..' and '//'")
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        raise NotYet(
            Reason.LOCATION_UNUSABLE,
            f"{walked} does not exist on this node; make the directory or mount the file system at {path} "
            "(it is never made for you: an unmounted file system must not fill the root disk)",
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise _unusable(
                f"{walked} is a link, and a location may have none; write the real path in the VMBackupLocation"
            ) from None
        raise _unusable(f"{walked} is not a directory; point the VMBackupLocation to one") from None


def _check_writers(directory: int, walked: str, path: str) -> None:
    """See that not every user of the node can put something else in the place of what we make.

    We never follow a link, but libvirt opens a push target by its path: whoever can swap a directory on that path
    leads the guest's data elsewhere. On the way a sticky directory will do: others' entries cannot be renamed there.
    """
    mode = os.fstat(directory).st_mode
    safe = not mode & stat.S_IWOTH or (mode & stat.S_ISVTX and walked != path)
    if not safe and not os.fstatvfs(directory).f_flag & os.ST_RDONLY:
        raise _unusable(
            f"{walked} can be written by every user of this node, who could lead a backup elsewhere; take that right "
            f"away (chmod o-w {walked})"
        )


@contextmanager
def below(root: int, relative: str, *, make: bool = False) -> Iterator[int]:
    """Open a directory below an open one; with `make`, missing ones are made durable on the way.

    Raises:
        FileNotFoundError: a component is missing, and `make` is False.
        Failed: a component is a link, not a directory, or no plain name.
        OSError: the file system is in trouble.
    """
    directory = os.dup(root)
    try:
        for name in relative.split("/"):
            if make:
                _make(directory, name)
            deeper = enter(directory, name, relative)
            os.close(directory)
            directory = deeper
        yield directory
    finally:
        os.close(directory)


def enter(directory: int, name: str, relative: str) -> int:
    """Open one directory inside another. `relative` is for the words of the error only."""
    if not plain(name):
        raise Failed(Reason.STORE_ERROR, f"{relative!r} has the part {name!r}, which is no file name")
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Failed(
            Reason.STORE_ERROR,
            f"{name!r} in {relative!r} is a link or not a directory, and was not made by us; look who put it into the "
            "location and remove it",
        ) from None


def plain(name: str) -> bool:
    """Return whether this can only be an entry of the directory it is looked up in."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _make(directory: int, name: str) -> None:
    if not plain(name):
        return  # enter() says so in words
    try:
        os.mkdir(name, DIRECTORY_MODE, dir_fd=directory)
    except FileExistsError:
        return
    made = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        os.fchmod(made, DIRECTORY_MODE)  # whatever the umask was
    finally:
        os.close(made)
    os.fsync(directory)


def open_file(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file in a directory; never a link, and never blocked by a pipe.

    Raises:
        Failed: it is no regular file.
        OSError: missing, or the file system is in trouble.
    """
    try:
        file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise Failed(Reason.STORE_ERROR, f"{name!r} is a link where a file of ours was expected") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise Failed(Reason.STORE_ERROR, f"{name!r} is not a regular file")
    return file


def write_file(directory: int, name: str, content: bytes) -> None:
    """Write a file, whole or not at all, in place of an earlier one; synced to disk, the directory is not."""
    fresh = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=directory)
    file = create_file(directory, fresh)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(file)
    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)


def create_file(directory: int, name: str) -> int:
    """Create a file that did not exist, open for reading and writing.

    Raises: OSError: it exists, or the file system is in trouble.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, FILE_MODE, dir_fd=directory)


def _unusable(words: str) -> Refused:
    return Refused(Reason.LOCATION_UNUSABLE, words)
