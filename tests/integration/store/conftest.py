"""Real file systems on loop devices, real QEMU tools. Needs root; every mount and loop device is taken away again."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fakes.places import images, location, store

__all__ = ["images", "location", "store"]


def call(*command: str | Path) -> str:
    """Run a tool and return what it says; an error of it fails the test with its words."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


@contextmanager
def mounted(directory: Path, file_system: str, size: str) -> Iterator[Path]:
    device, point = directory / f"{file_system}.disk", directory / file_system
    call("truncate", "-s", size, device)
    call(f"mkfs.{file_system}", "-q", device)
    point.mkdir()
    call("mount", "-o", "loop", device, point)
    try:
        yield point
    finally:
        call("umount", "--lazy", point)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Make a file system of a kind and a size, and return where it is mounted."""
    with ExitStack() as mounts:
        yield lambda file_system, size: mounts.enter_context(mounted(tmp_path, file_system, size))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Make a block device of a file."""
    with ExitStack() as devices:

        def attach(file: Path) -> Path:
            device = Path(call("losetup", "--find", "--show", file))
            devices.callback(call, "losetup", "--detach", device)
            return device

        yield attach
