"""The watchdog of a freeze, with a guest agent that dies."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
import pytest

from fakes.waiting import eventually
from unit.core.scene import a_run
from unit.hypervisor.test_failures import QEMU, libvirt_error
from vmbackup.api.journal import Freeze
from vmbackup.hypervisor import freeze
from vmbackup.hypervisor.freeze import Freezer

LIMIT_SECONDS = 0.1
FREEZING = a_run().model_copy(update={"freeze": Freeze.INTENDED})


class Guest:
    """The domain, and the connection to it. Its agent may go and come back; only that agent can thaw."""

    def __init__(self) -> None:
        self.agent = True
        self.frozen = False
        self.asked_in_vain = threading.Event()

    def lookupByUUIDString(self, _uuid: str) -> "Guest":
        return self

    def isActive(self) -> bool:
        return True

    def agentSetResponseTimeout(self, _seconds: int, _flags: int) -> None:
        pass

    def fsFreeze(self) -> None:
        self._ask()
        self.frozen = True

    def fsThaw(self) -> None:
        self._ask()
        self.frozen = False

    def _ask(self) -> None:
        if not self.agent:
            self.asked_in_vain.set()
            raise libvirt_error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE, QEMU, "QEMU guest agent is not connected")


class NoGuard:
    def __init__(self, *_: object) -> None:
        pass

    def dismiss(self) -> None:
        pass


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    guest = Guest()

    @contextmanager
    def connection(_uri: str) -> Iterator[Guest]:
        yield guest

    monkeypatch.setattr(freeze, "fresh_connection", connection)
    monkeypatch.setattr(freeze, "Guard", NoGuard)
    monkeypatch.setattr(freeze, "_agent_connected", lambda guest: guest.agent)
    monkeypatch.setattr(freeze, "THAW_AGAIN_SECONDS", 0.01)
    return guest


def test_guest_whose_agent_died_after_the_freeze_is_thawed_when_the_agent_is_back(guest: Guest) -> None:
    """Its run may not say yet that it is frozen: the watchdog began with the one that only meant to."""
    freezer = Freezer("")
    freezer.freeze(FREEZING, LIMIT_SECONDS)
    guest.agent = False
    assert guest.asked_in_vain.wait(10)
    guest.agent = True
    eventually(lambda: not guest.frozen)


def test_thaw_is_refused_as_long_as_the_agent_of_a_frozen_guest_is_away(guest: Guest) -> None:
    freezer = Freezer("")
    freezer.freeze(FREEZING, LIMIT_SECONDS)
    guest.agent = False
    with pytest.raises(freeze.Failed):
        freezer.thaw(FREEZING)
    guest.agent = True
    assert freezer.thaw(FREEZING) is not None
    assert not guest.frozen
