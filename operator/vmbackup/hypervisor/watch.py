"""libvirt's events, as a nudge to look: they only say which VM, what happened is seen by looking."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import libvirt

from vmbackup.errors import VMBackupError
from vmbackup.hypervisor.connection import close, open_connection
from vmbackup.hypervisor.failures import attempt

EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
    libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
)
AGAIN_SECONDS = 1.0
STOP_SECONDS = 5.0

log = logging.getLogger(__name__)


class Watch:
    """Calls `callback` with the UUID of a VM whenever something happened to it; it must only enqueue.

    Events are not replayed by a daemon that comes back, so every VM is called once after each connection.
    """

    def __init__(self, uri: str, callback: Callable[[str], None]) -> None:
        self._uri, self._callback = uri, callback
        self._stopped = False
        self._changed = threading.Event()  # the connection broke, or the watch is over
        self._thread = threading.Thread(target=self._keep, name="libvirt watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch; no call is made afterwards. A daemon that hangs does not hold the caller up."""
        self._stopped = True
        self._changed.set()
        self._thread.join(STOP_SECONDS)

    def _keep(self) -> None:
        said = ""
        while not self._stopped:
            self._changed.clear()
            try:
                connection = self._connect()
            except VMBackupError as reason:
                if reason.message != said:  # a node may have no daemon of its own
                    log.info("libvirt events: %s", reason.message)
                said = reason.message
                self._changed.wait(AGAIN_SECONDS)
                continue
            said = ""
            if not self._stopped:
                self._changed.wait()
            with suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()
            close(connection)

    def _connect(self) -> libvirt.virConnect:
        connection = open_connection(self._uri)
        with attempt(f"Listening to events of {self._uri}"):
            connection.registerCloseCallback(lambda *_: self._changed.set(), None)
            for event in EVENTS:
                connection.domainEventRegisterAny(None, event, self._on_event, None)
            for domain in connection.listAllDomains():
                self._tell(domain)
        return connection

    def _on_event(self, _connection: libvirt.virConnect, domain: libvirt.virDomain, *_: Any) -> None:
        self._tell(domain)

    def _tell(self, domain: libvirt.virDomain) -> None:
        if self._stopped:
            return
        try:
            self._callback(domain.UUIDString())  # known to the client: asks nobody
        except Exception:
            log.exception("the callback of a libvirt event failed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
