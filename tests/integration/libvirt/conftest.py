"""One daemon per release for the whole session, one rig per test."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.libvirt.engine import REST_SECONDS
from integration.libvirt.rig import Rig
from testbed.hypervisor import Libvirtd as Daemon
from vmbackup.core import ending


@pytest.fixture(scope="session")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    """Start the daemon of a release at its first use."""
    running: dict[str, Daemon] = {}
    # QEMU of the machine's own packages runs as another user, who may not enter pytest's directories.
    with tempfile.TemporaryDirectory(prefix="vmb-", dir="/var/tmp") as name, ExitStack() as open_:
        Path(name).chmod(0o711)

        def daemon(release: str) -> Daemon:
            if release not in running:
                running[release] = open_.enter_context(Daemon(release, directory=Path(name) / release))
            return running[release]

        yield daemon


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "ATTEMPT_REST_SECONDS", REST_SECONDS)


@pytest.fixture
def release() -> str:
    """The machine's own, where a test does not say otherwise."""
    return "9.0"


@pytest.fixture
def rig(daemons: Callable[[str], Daemon], release: str) -> Iterator[Rig]:
    place = Rig(daemons(release))
    yield place
    place.close()
