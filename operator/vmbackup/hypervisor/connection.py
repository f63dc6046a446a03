"""Connections to a libvirt daemon that may die and come back at any time."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import libvirt

from vmbackup.hypervisor.failures import attempt

KEEPALIVE_SECONDS = 5
KEEPALIVE_MISSES = 3

log = logging.getLogger(__name__)
_loop_lock = threading.Lock()
_loop_runs = False


def run_event_loop() -> None:
    """Start libvirt's event loop, once per process and before the first connection is opened.

    libvirt asks for that order (virEventRegisterImpl); without the loop keepalives are not answered and a daemon
    that hangs is never noticed. It runs in a thread of its own, so that nobody's slow turn can stop it.
    """
    global _loop_runs  # noqa: PLW0603 - libvirt keeps the loop per process, so must we
    with _loop_lock:
        if _loop_runs:
            return
        # libvirt prints every error to stderr unless somebody takes it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_turn_for_ever, name="libvirt events", daemon=True).start()
        _loop_runs = True


def _turn_for_ever() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.exception("libvirt's event loop failed; going on")
            time.sleep(1)


def open_connection(uri: str) -> libvirt.virConnect:
    """Return a new connection. Raises: NotYet: the daemon is away."""
    run_event_loop()
    with attempt(f"Connecting to {uri}"):
        connection = libvirt.open(uri)
        connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_MISSES)
        return connection


@contextmanager
def fresh_connection(uri: str) -> Iterator[libvirt.virConnect]:
    """Open a connection for one act that must not wait behind others: abort, thaw, and calls that may hang.

    The daemon serves five requests of one connection at a time, and each may wait 30 seconds for a job lock.
    Raises: NotYet: the daemon is away.
    """
    connection = open_connection(uri)
    try:
        yield connection
    finally:
        close(connection)


def close(connection: libvirt.virConnect) -> None:
    """Close a connection; one that is broken already counts as closed."""
    with suppress(libvirt.libvirtError):
        connection.close()


class Connections:
    """One connection per thread, opened at first use and again after it broke: each VM's worker has its own."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._of_thread = threading.local()

    def get(self) -> libvirt.virConnect:
        """Return this thread's connection. Raises: NotYet: the daemon is away."""
        connection: libvirt.virConnect | None = getattr(self._of_thread, "connection", None)
        if connection is not None:
            if _alive(connection):
                return connection
            close(connection)
            self._of_thread.connection = None
        self._of_thread.connection = open_connection(self.uri)
        return self._of_thread.connection


def _alive(connection: libvirt.virConnect) -> bool:
    """Tell whether the socket is open: asks nobody. A daemon that died a moment ago shows at the next call."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False
