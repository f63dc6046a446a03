"""The daemons and rigs of tests/integration/libvirt, and somebody on the node who means harm."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.libvirt.conftest import _short_rests, daemons, release, rig
from integration.libvirt.rig import Rig

__all__ = ["_short_rests", "daemons", "release", "rig"]
SECRET = b"root:$6$the-host-file-that-nobody-may-see:20000:0:99999:7:::\n"
NOBODY = 65534


@pytest.fixture
def shadow(rig: Rig) -> Path:
    """A file of the host's that only root may read, of a size that a disk can have."""
    path = rig.place / "shadow"
    path.write_bytes((SECRET * 100)[:4096])
    path.chmod(0o600)
    return path


@pytest.fixture
def outside(rig: Rig) -> Path:
    """A directory of somebody else's, which QEMU might write to."""
    path = rig.place / "outside"
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    return path


@pytest.fixture
def unprivileged() -> Iterator[Callable[[str], None]]:
    """Run a program without any rights beside the test, until the test ends."""
    running: list[subprocess.Popen[bytes]] = []

    def run(program: str) -> None:
        who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=KILL"]
        running.append(subprocess.Popen([*who, sys.executable, "-I", "-c", textwrap.dedent(program)]))

    yield run
    for process in running:
        assert process.poll() is None, "the attacker gave up before the end"
        process.kill()
        process.wait()


def found_in(place: Path, secret: bytes = SECRET) -> list[Path]:
    """Return the files below a place that hold the secret."""
    return [
        path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and secret in path.read_bytes()
    ]
