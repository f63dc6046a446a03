"""Real libvirt daemons of three releases, each in namespaces of its own."""

import contextlib
import grp
import os
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

from testbed.cache import cache_directory
from testbed.errors import TestbedError
from testbed.namespace import Namespace
from testbed.roots import root

OWN_RELEASE = "9.0"  # of the machine's own packages (Debian 12)
RELEASES = ("7.0", OWN_RELEASE, "11.3")
DAEMON_SECONDS = 60
# What a daemon writes, and where it looks for it. /run/libvirt holds the socket that clients outside use.
DIRECTORIES = {"run": "/run/libvirt", "lib": "/var/lib/libvirt", "etc": "/etc/libvirt", "log": "/var/log/libvirt"}
# In a plain chroot QEMU cannot be given mounts, control groups or another user's files.
CHROOT_QEMU_CONF = 'namespaces = []\ncgroup_controllers = []\nuser = "root"\ngroup = "root"\nsecurity_driver = "none"\n'


class Libvirtd:
    """virtlogd, libvirtd and their QEMUs; nothing is left when it stops or when this process ends.

    Attributes: `uri` (reachable from outside the namespaces), `images` (a directory that QEMU may enter), `release`,
    `directory`, `namespace`. A path below `directory` means the same file inside and outside.
    """

    def __init__(
        self,
        release: str = OWN_RELEASE,
        *,
        directory: Path,
        setup: str = "",
        network: bool | Namespace = False,
        afterwards: str = "",
    ) -> None:
        """`release`: "9.0" (the machine's own packages), "7.0" or "11.3" (Debian 11 and 13 in a chroot).

        setup: shell lines that come before the daemon's own mounts. network, afterwards: as for Namespace.
        """
        if release not in RELEASES:
            raise TestbedError(f"No libvirt {release}; there are {', '.join(RELEASES)}.")
        self.release = release
        self.directory = directory.resolve()
        self.images = self.directory / "images"
        self.socket = self.directory / "run" / "libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        self._root = None if release == OWN_RELEASE else root(release)
        self.namespace = Namespace(f"{setup}\n{self._mounts()}", network=network, afterwards=afterwards)

    def start(self) -> None:
        """Start the namespaces and both daemons. Raises TestbedError when one does not come up."""
        if len(str(self.socket)) > 107:
            raise TestbedError(f"{self.socket} is too long for a socket (107 bytes): choose a shorter directory.")
        if not self._root and not shutil.which("libvirtd"):
            raise TestbedError("libvirtd is missing: run dev/bootstrap.sh (Debian package libvirt-daemon-system).")
        for name in (*DIRECTORIES, "images"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self.images.chmod(0o755)
        closed = [parent for parent in self.directory.parents if not parent.stat().st_mode & 0o001]
        if closed and not self._root:
            raise TestbedError(
                f"The qemu user may not enter {closed[0]}, which is above {self.directory}: "
                "chmod it to 0711 or choose a directory below /var/tmp."
            )
        cache_directory().joinpath(f"libvirt-{self.release}").mkdir(parents=True, exist_ok=True)
        etc = (self._root or Path("/")) / "etc/libvirt"
        # The machine's own networks and autostarted domains are nobody's business here.
        shutil.copytree(etc, self.directory / "etc", dirs_exist_ok=True, ignore=shutil.ignore_patterns("qemu"))
        if self._root:
            (self.directory / "etc" / "qemu.conf").write_text(CHROOT_QEMU_CONF)
        _give_kvm_its_group()
        self.namespace.start()
        try:
            self.run("virtlogd", "--daemon", "--pid-file", "/run/libvirt/virtlogd.pid")
            self.start_daemon()
        except BaseException:
            self.stop()
            raise

    def start_daemon(self) -> None:
        """Start libvirtd and wait until it answers. Raises TestbedError when it does not."""
        self.run("libvirtd", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid")
        deadline = time.monotonic() + DAEMON_SECONDS
        while True:
            try:
                libvirt.open(self.uri).close()
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    log = self.directory / "log" / "libvirtd.log"
                    raise TestbedError(
                        f"libvirtd {self.release} does not answer at {self.uri}: {error}. See {log}."
                    ) from error
                time.sleep(0.05)
            else:
                return

    def kill_daemon(self) -> None:
        """SIGKILL libvirtd; virtlogd and the QEMUs go on. Returns when it is gone."""
        pid = (self.directory / "run" / "libvirtd.pid").read_text().strip()
        wait = f"kill -KILL {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.01; done"
        self.run("timeout", str(DAEMON_SECONDS), "sh", "-c", wait)

    def run(self, *arguments: str) -> str:
        """Run a command where the daemon runs and return its stdout (mounts made by it stay inside)."""
        return self.namespace.run(*arguments, root=self._root)

    def qemu_pid(self, domain_uuid: str) -> int | None:
        """Return the PID, as seen from outside, of the QEMU that runs the domain, or None."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # ended meanwhile
            if b"qemu-system" in words[0] and domain_uuid.encode() in words:
                return int(entry.name)
        return None

    def stop(self) -> None:
        """End daemons and QEMUs and drop the mounts; the files below `directory` stay."""
        self.namespace.stop()

    def _mounts(self) -> str:
        """Return the shell lines that make the daemon's mounts."""
        base = self._root or Path("/")
        binds = {self.directory / name: base / at.lstrip("/") for name, at in DIRECTORIES.items()}
        # Asking QEMU for its capabilities takes seconds, so all daemons of one release share the answers.
        binds[cache_directory() / f"libvirt-{self.release}"] = base / "var/cache/libvirt"
        lines = []
        if self._root:
            # The root is shared with other daemons: what is written to it goes to memory and is dropped at the end.
            upper = f"{base}/tmp/upper", f"{base}/tmp/work"
            layers = f"lowerdir={base},upperdir={upper[0]},workdir={upper[1]}"
            lines += [
                f"mount -t tmpfs tmpfs {base}/tmp",
                f"mkdir {' '.join(upper)}",
                f"mount -t overlay overlay -o {layers} {base}",
                f"mount -t proc proc {base}/proc",
                *(f"mount --rbind /{at} {base}/{at}" for at in ("dev", "sys")),
            ]
            binds[self.directory] = Path(f"{base}{self.directory}")
        lines += [f"mkdir -p '{at}'\nmount --rbind '{source}' '{at}'" for source, at in binds.items()]
        return "\n".join(lines)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _give_kvm_its_group() -> None:
    """Give /dev/kvm the owner and mode that udev gives it, where no udev did.

    With a /dev/kvm that root may open and the qemu user may not, libvirt asks QEMU for its capabilities again before
    every start of a domain, which takes 9 s.
    """
    device = Path("/dev/kvm")
    with contextlib.suppress(FileNotFoundError, KeyError):
        status = device.stat()
        if status.st_mode & 0o777 == 0o600 and status.st_gid == 0:
            os.chown(device, 0, grp.getgrnam("kvm").gr_gid)
            device.chmod(0o660)
