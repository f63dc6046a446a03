"""One agent per daemon: two that were started by mistake, each with a state directory of its own, share no journal."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from vmbackup.api.conditions import Reason
from vmbackup.errors import NotYet

USUAL_DIRECTORY = "/run/libvirt"


@contextmanager
def sole(uri: str) -> Iterator[None]:
    """Be the one agent of this daemon: a lock on the directory of its socket, freed by the kernel when we die.

    A daemon of another machine, or one that was never started here, is not locked.
    Raises: NotYet: another agent works with it.
    """
    try:
        directory = os.open(socket_directory(uri), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        raise NotYet(
            Reason.FOREIGN_JOB, f"another agent, with another state directory, works with {uri}; stop one of them"
        ) from None
    try:
        yield
    finally:
        os.close(directory)


def socket_directory(uri: str) -> str:
    """Return the directory of the daemon's socket; empty when the daemon is on another machine."""
    parts = urlsplit(uri)
    if parts.netloc:
        return ""
    socket = parse_qs(parts.query).get("socket")
    return os.path.dirname(socket[0]) if socket else USUAL_DIRECTORY
