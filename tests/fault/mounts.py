"""File systems that can be filled, broken and hung, in a mount namespace of our own: nothing of it outlives us."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from vmbackup.units import MIB

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE, MS_SHARED = 0x4000, 1 << 18, 1 << 20
READY_SECONDS = 20.0
SICK_MIB = 768
SLOW = "loop,sync"  # every write waits for the disk: a push takes seconds, and can be held in its midst


def own_mounts() -> None:
    """Move this process (and all that it starts) into a mount namespace of its own.

    Mounts made here are seen by namespaces made later from here, as those of libvirt's QEMUs are, at any time.
    Raises: OSError: not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    calls = (
        lambda: libc.unshare(CLONE_NEWNS),
        lambda: libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        lambda: libc.mount(b"none", b"/", None, MS_REC | MS_SHARED, None),
    )
    for call in calls:
        if call():
            raise OSError(ctypes.get_errno(), "these tests need root, for mounts of their own")


def mount_new(at: Path, size_mib: int, *options: str) -> None:
    """Make an ext4 file system in a file beside `at` and mount it there, empty."""
    at.mkdir(parents=True, exist_ok=True)
    image = at.with_name(f"{at.name}.filesystem")
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", ",".join(("loop", *options)), str(image), str(at))
    shutil.rmtree(at / "lost+found")


def remount(at: Path, how: str) -> None:
    """Mount again as "ro" or "rw"."""
    _run("mount", "-o", f"remount,{how}", str(at))


def unmount(at: Path) -> None:
    _run("umount", "--lazy", str(at))


def fill(directory: Path, leave_bytes: int = 0) -> Path:
    """Fill a file system but for `leave_bytes`, and return the file that does it."""
    ballast = directory / "ballast"
    space = os.statvfs(directory)
    wanted = space.f_bavail * space.f_frsize - leave_bytes
    with ballast.open("wb", buffering=0) as file:  # what finds no room must not be left for close()
        while wanted >= 4096:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, wanted)
            except OSError:
                wanted //= 2  # the file system needs some blocks for itself
            else:
                break
        if not leave_bytes:
            try:
                while True:
                    file.seek(0, os.SEEK_END)
                    file.write(bytes(4096))
            except OSError:
                pass
    return ballast


class SickDisk:
    """A file system on a disk that fails or hangs when it is told to: ext4 over a loop device over nbdfuse."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.at = place / "mounted"
        self._trigger = place / "errors"
        self._fuse: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        disk = self._place / "disk"
        self.at.mkdir(parents=True, exist_ok=True)
        disk.touch()
        self._trigger.unlink(missing_ok=True)
        kit = ["nbdkit", "-s", "--exit-with-parent", "--filter=error", "memory", f"{SICK_MIB}M"]
        errors = ["error-pwrite=EIO", "error-pwrite-rate=100%", f"error-file={self._trigger}"]
        with (self._place / "nbdfuse.log").open("ab") as log:
            self._fuse = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "nbdfuse", str(disk), "--command", *kit, *errors],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not disk.stat().st_size:
            assert time.monotonic() < deadline, (self._place / "nbdfuse.log").read_text()
            time.sleep(0.05)
        _run("mkfs.ext4", "-q", "-m", "0", str(disk))
        _run("mount", "-o", SLOW, str(disk), str(self.at))
        shutil.rmtree(self.at / "lost+found")

    def fail(self) -> None:
        """From now on every write fails with EIO."""
        self._trigger.touch()

    def hang(self) -> None:
        """From now on nothing is answered."""
        self._signal_kit(signal.SIGSTOP)

    def recover(self) -> None:
        """Answer again, without errors; what ext4 has made of them stays."""
        self._trigger.unlink(missing_ok=True)
        self._signal_kit(signal.SIGCONT)

    def repair(self) -> None:
        """Do what an administrator does after a broken disk: check the file system and mount it again."""
        self.recover()
        unmount(self.at)
        subprocess.run(["e2fsck", "-p", "-f", str(self._place / "disk")], capture_output=True, check=False)
        _run("mount", "-o", SLOW, str(self._place / "disk"), str(self.at))

    def stop(self) -> None:
        if self._fuse is None:
            return
        self.recover()
        unmount(self.at)
        unmount(self._place / "disk")
        self._fuse.kill()
        self._fuse.wait()
        self._fuse = None

    def _signal_kit(self, number: signal.Signals) -> None:
        assert self._fuse is not None
        children = Path(f"/proc/{self._fuse.pid}/task/{self._fuse.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), number)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not result.returncode, f"{' '.join(command)}: {result.stderr}"
