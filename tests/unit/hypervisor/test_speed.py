"""A speed limit on a daemon that does not answer: what its release can do decides what that means."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt
import pytest

from unit.hypervisor.test_failures import QEMU, RPC, libvirt_error
from vmbackup.api.conditions import Reason
from vmbackup.core.steps import LimitSpeed
from vmbackup.errors import Failed, NotYet
from vmbackup.hypervisor import speed

STEP = LimitSpeed(("vda",), 1 << 20)
GOOD, BLOCKING = 9_000_000, 11_003_000


class Daemon:
    """Connection and domain in one. `answers` is done when the limit is set: it may raise, or never come back."""

    def __init__(self, version: int, answers: Any) -> None:
        self._version, self._answers = version, answers

    def getLibVersion(self) -> int:
        return self._version

    def lookupByUUIDString(self, _uuid: str) -> "Daemon":
        return self

    def blockJobInfo(self, _target: str) -> dict[str, int]:
        return {"type": libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP}

    def blockJobSetSpeed(self, _target: str, _bytes_per_second: int, _flags: int) -> None:
        self._answers()


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(speed, "GRACE_SECONDS", 0.05)
    let_go = threading.Event()
    yield let_go.wait
    let_go.set()


def limit(monkeypatch: pytest.MonkeyPatch, version: int, answers: Any) -> None:
    @contextmanager
    def connection(_uri: str) -> Iterator[Daemon]:
        yield Daemon(version, answers)

    monkeypatch.setattr(speed, "fresh_connection", connection)
    speed.limit_speed("test:///", "uuid", STEP, may_use_monitor=False)


def test_daemon_that_hangs_is_asked_again(monkeypatch: pytest.MonkeyPatch, hang: Any) -> None:
    with pytest.raises(NotYet, match="not answered blockJobSetSpeed") as caught:
        limit(monkeypatch, GOOD, hang)
    assert caught.value.reason == Reason.HYPERVISOR_AWAY


def test_daemon_of_a_release_that_blocks_limits_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, hang: Any) -> None:
    with pytest.raises(Failed) as caught:
        limit(monkeypatch, BLOCKING, hang)
    assert caught.value.reason == Reason.SPEED_LIMIT_UNSUPPORTED
    assert not caught.value.heals


def test_daemon_that_dies_in_the_call_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, RPC, "Cannot recv data: Connection reset by peer")

    with pytest.raises(NotYet):
        limit(monkeypatch, GOOD, die)


def test_limit_that_libvirt_refuses_is_no_daemon_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise libvirt_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED, QEMU, "not supported")

    with pytest.raises(Failed) as caught:
        limit(monkeypatch, GOOD, refuse)
    assert caught.value.reason == Reason.SPEED_LIMIT_UNSUPPORTED
