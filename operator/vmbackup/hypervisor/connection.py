"""Connections to a libvirt daemon that may die and come back at any time."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import libvirt

from vmbackup.api.conditions import Reason
from vmbackup.errors import NotYet, VMBackupError
from vmbackup.hypervisor.failures import attempt
from vmbackup.hypervisor.pods import reach

KEEPALIVE_SECONDS = 5
KEEPALIVE_MISSES = 3
OPEN_SECONDS = 10.0

log = logging.getLogger(__name__)
_process_lock = threading.Lock()
_loop_runs = False
_hanging: dict[str, threading.Thread] = {}  # by URI: the last attempt to connect that got no answer in time


def run_event_loop() -> None:
    """Start libvirt's event loop, once per process and before the first connection is opened.

    libvirt asks for that order (virEventRegisterImpl); without the loop keepalives are not answered and a daemon
    that hangs is never noticed. It runs in a thread of its own, so that nobody's slow turn can stop it.
    """
    global _loop_runs  # noqa: PLW0603 - libvirt keeps the loop per process, so must we
    with _process_lock:
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
    """Return a new connection.

    Raises: NotYet: the daemon is away, or does not answer in time; then later calls fail at once until it answers.
    """
    run_event_loop()
    with _process_lock:
        hanging = _hanging.get(uri)
        if hanging is not None and hanging.is_alive():
            raise _silent(uri)
    opener = _Opener(uri)
    opener.start()
    return opener.result()


class _Opener(threading.Thread):
    """Opens a connection: a daemon that hangs accepts it and never says a word, and no keepalive runs yet."""

    def __init__(self, uri: str) -> None:
        super().__init__(name=f"open {uri}", daemon=True)
        self._uri = uri
        self._lock = threading.Lock()
        self._given_up = False
        self._connection: libvirt.virConnect | None = None
        self._error: VMBackupError | None = None

    def run(self) -> None:
        try:
            with attempt(f"Connecting to {self._uri}"), reach(self._uri) as uri:
                connection = libvirt.open(uri)
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_MISSES)
        except VMBackupError as error:
            self._error = error
            return
        with self._lock:
            if not self._given_up:
                self._connection = connection
                return
        close(connection)

    def result(self) -> libvirt.virConnect:
        """Raises: NotYet: the daemon is away, or does not answer in time."""
        self.join(OPEN_SECONDS)
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._connection is not None:
                return self._connection
            self._given_up = True
        with _process_lock:
            _hanging[self._uri] = self
        raise _silent(self._uri)


def _silent(uri: str) -> NotYet:
    return NotYet(
        Reason.HYPERVISOR_AWAY,
        f"Connecting to {uri}: the daemon is silent for {OPEN_SECONDS:.0f} s now. See what it hangs on; we look again.",
    )


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
