"""Freezing a guest's file systems, never for longer than a few seconds.

A frozen guest is as good as dead to its users, so whoever freezes it also starts a watchdog that thaws it at the limit,
on a connection of its own and whatever the caller does meanwhile; and a guard, in case we are killed.
"""

import math
import threading
import time
from dataclasses import dataclass, field

import libvirt

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Run
from vmbackup.errors import Failed, VMBackupError
from vmbackup.hypervisor.connection import fresh_connection
from vmbackup.hypervisor.failures import attempt, is_code, is_not_running
from vmbackup.hypervisor.guard import Guard
from vmbackup.hypervisor.observe import read_live

THAW_AGAIN_SECONDS = 1.0
THAW_ANSWER_SECONDS = 10
GUARD_LATER_SECONDS = 1.0  # the watchdog in this process comes first
NOBODY_THERE = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)


@dataclass
class _Frozen:
    """One freeze, from the moment it was asked for to its thaw; a monotonic clock, in seconds.

    `confirmed`: the guest agent has said that the guest is frozen.
    """

    asked_at: float
    confirmed: bool = False
    thawed: threading.Event = field(default_factory=threading.Event)
    milliseconds: int | None = None

    def end(self) -> None:
        if not self.thawed.is_set():
            self.milliseconds = round((time.monotonic() - self.asked_at) * 1000)
            self.thawed.set()


class Freezer:
    """Freezes and thaws guests through one daemon; remembers each VM's last freeze, for its length."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._last: dict[str, _Frozen] = {}
        self._lock = threading.Lock()

    def freeze(self, run: Run, limit_seconds: float) -> None:
        """Freeze the guest; after an error it is thawed. Waits no longer than the limit for the freeze itself.

        Raises: NotYet: the daemon is away. Failed: no agent answers, or it refused.
        """
        frozen = _Frozen(time.monotonic())
        with self._lock:
            before = self._last.get(run.domain_uuid)
            self._last[run.domain_uuid] = frozen
        if before is not None:
            before.end()  # its watchdog must not thaw the new freeze
        guard = Guard(self._uri, run.domain_uuid, limit_seconds + GUARD_LATER_SECONDS)
        watchdog = threading.Thread(
            target=self._watch, args=(run, frozen, limit_seconds, guard), name=f"thaw {run.domain}", daemon=True
        )
        watchdog.start()
        call = _FreezeCall(self._uri, run, limit_seconds)
        call.start()
        call.join(limit_seconds)
        if call.is_alive():
            # The watchdog is at work by now, and stays at it until a thaw went through.
            raise Failed(
                Reason.FREEZE_FAILED,
                f"VM {run.domain}: the guest agent did not freeze it in {limit_seconds:.0f} s; it is being thawed.",
                heals=True,
            )
        if call.error is not None:
            self._thaw_after_error(run, frozen)
            raise call.error
        frozen.confirmed = True

    def thaw(self, run: Run) -> int | None:
        """Thaw the guest and return how long it was frozen, in milliseconds; None when we did not freeze it.

        A guest that is off, or cannot be frozen, counts as thawed.
        Raises: NotYet: the daemon is away. Failed: a guest that may be frozen was not thawed.
        """
        with self._lock:
            frozen = self._last.get(run.domain_uuid)
        if frozen is not None and frozen.thawed.is_set():
            return frozen.milliseconds
        self._thaw(run, confirmed=run.freeze is Freeze.FROZEN or (frozen is not None and frozen.confirmed))
        if frozen is None:
            return None
        frozen.end()
        return frozen.milliseconds

    def _watch(self, run: Run, frozen: _Frozen, limit_seconds: float, guard: Guard) -> None:
        remaining = limit_seconds - (time.monotonic() - frozen.asked_at)
        while not frozen.thawed.wait(max(0.0, remaining)):
            try:
                self._thaw(run, confirmed=frozen.confirmed)
                frozen.end()
            except VMBackupError:
                remaining = THAW_AGAIN_SECONDS
        guard.dismiss()

    def _thaw_after_error(self, run: Run, frozen: _Frozen) -> None:
        try:
            self._thaw(run, confirmed=False)
        except VMBackupError:
            return  # the watchdog tries again at the limit
        frozen.end()
        frozen.milliseconds = None

    def _thaw(self, run: Run, *, confirmed: bool) -> None:
        with fresh_connection(self._uri) as connection, attempt(f"VM {run.domain}: thawing", Reason.FREEZE_FAILED):
            try:
                domain = connection.lookupByUUIDString(run.domain_uuid)
                domain.agentSetResponseTimeout(THAW_ANSWER_SECONDS, 0)
                domain.fsThaw()
                # The VM's own setting is libvirt's default again: others may ask the agent for what takes long.
                domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_DOMAIN) or is_not_running(error):
                    return
                if is_code(error, *NOBODY_THERE) and not confirmed and not _agent_connected(domain):
                    return  # with nobody there to freeze, nothing is frozen
                raise


class _FreezeCall(threading.Thread):
    """fsFreeze on a connection and in a thread of its own: it waits for the guest."""

    def __init__(self, uri: str, run: Run, limit_seconds: float) -> None:
        super().__init__(name=f"freeze {run.domain}", daemon=True)
        self.error: VMBackupError | None = None
        self._uri, self._run, self._limit_seconds = uri, run, limit_seconds

    def run(self) -> None:
        try:
            with fresh_connection(self._uri) as connection:
                self._freeze(connection)
        except VMBackupError as error:
            self.error = error

    def _freeze(self, connection: libvirt.virConnect) -> None:
        with attempt(f"VM {self._run.domain}: freezing", Reason.FREEZE_FAILED):
            domain = connection.lookupByUUIDString(self._run.domain_uuid)
            if domain.isActive() and not _agent_connected(domain):
                raise Failed(
                    Reason.GUEST_AGENT_MISSING,
                    f"VM {self._run.domain}: no guest agent is connected. Start qemu-guest-agent in the guest.",
                )
            # Without it libvirt waits for ever for an agent that has stopped answering.
            domain.agentSetResponseTimeout(max(1, math.ceil(self._limit_seconds)), 0)
            domain.fsFreeze()


def _agent_connected(domain: libvirt.virDomain) -> bool:
    return read_live(domain).guest_agent
