"""One daemon per release for the whole session, one rig per test."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from fault.mounts import own_mounts
from integration.libvirt.engine import REST_SECONDS
from integration.libvirt.rig import NAMESPACE, Rig
from testbed.hypervisor import Libvirtd as Daemon
from vmbackup.core import ending
from vmbackup.units import MIB

# File systems in every daemon's `images`, mounted before it starts.
SMALL_MIB = 160
REFLINK_MIB = 2048  # overlays need 512 MiB of room; the file is sparse


@pytest.fixture(scope="session")
def daemons() -> Iterator[Callable[[str], Daemon]]:
    """Start the daemon of a release at its first use."""
    own_mounts()  # whatever becomes of this process, its mounts end with it
    running: dict[str, Daemon] = {}
    # QEMU of the machine's own packages runs as another user, who may not enter pytest's directories.
    with tempfile.TemporaryDirectory(prefix="vmb-", dir="/var/tmp") as name, ExitStack() as ends:
        Path(name).chmod(0o711)

        def daemon(release: str) -> Daemon:
            if release not in running:
                directory = Path(name) / release
                _mount_new(ends, directory / "images/small", SMALL_MIB, "mkfs.ext4", "-q", "-m", "0")
                _mount_new(ends, directory / "images/reflink", REFLINK_MIB, "mkfs.xfs", "-q", "-m", "reflink=1")
                running[release] = ends.enter_context(Daemon(release, directory=directory))
            return running[release]

        yield daemon


def _mount_new(ends: ExitStack, at: Path, size_mib: int, *make: str) -> None:
    at.mkdir(parents=True)
    image = at.with_suffix(".filesystem")
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    subprocess.run([*make, str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    ends.callback(subprocess.run, ["umount", str(at)], check=True)


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


@pytest.fixture
def restored(rig: Rig) -> Iterator[None]:
    """Remove what tests have restored."""
    yield
    connection = libvirt.open(rig.daemon.uri)
    for domain in connection.listAllDomains():
        if domain.name().startswith(f"{NAMESPACE}_back"):
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            with contextlib.suppress(libvirt.libvirtError):
                domain.undefine()
    connection.close()
