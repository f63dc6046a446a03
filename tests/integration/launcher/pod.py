"""A stand-in for a launcher pod: root, control group and volume as kubelet makes them, Debian's libvirt inside."""

import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

from testbed.cache import cache_directory
from testbed.hypervisor import OWN_RELEASE
from testbed.namespace import Namespace
from testbed.roots import root

QEMU_USER = 107  # in KubeVirt's launchers
VOLUME = "volumes/kubernetes.io~empty-dir/hotplug-disks"
HOTPLUG_DISKS = "/run/kubevirt/hotplug-disks"
VMI_DISKS = "/run/kubevirt-private/vmi-disks"  # where the pod sees `LauncherPod.disks`
DAEMON_SECONDS = 60.0
# As virt-launcher's: no namespaces, no control groups, nobody's labels, no virtlogd.
QEMU_CONF = (
    'namespaces = []\ncgroup_controllers = []\nsecurity_driver = "none"\nremember_owner = 0\nstdio_handler = "file"\n'
)
ROOTS_QEMU = 'user = "root"\ngroup = "root"\n'
JOIN = 'echo 0 > "$0" && exec "$@"'


class Kubelet:
    """A kubelet's directory, a shared mount as on a node, in this process's mount namespace."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True)
        subprocess.run(["mount", "--bind", self.directory, self.directory], check=True)
        subprocess.run(["mount", "--make-shared", self.directory], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.directory], check=True)


class LauncherPod:
    """One pod with the libvirt daemon of root, or with `session` of uid 107. Nothing is left when it stops.

    Attributes: `uid`, `volume` (its hotplug-disks on the host), `disks` (on the host), `root` (of the pod, in its
    mount namespace only: reach it by `run`).
    """

    def __init__(
        self,
        kubelet: Kubelet,
        directory: Path,
        release: str = OWN_RELEASE,
        *,
        session: bool = False,
        propagation: str = "slave",
    ) -> None:
        self.uid = str(uuid.uuid4())
        self.session, self.release = session, release
        self.kubelet, self.directory = kubelet, directory.resolve()
        self.volume = kubelet.directory / "pods" / self.uid / VOLUME
        self.disks = self.directory / "disks"
        self.root = self.directory / "root"
        self.control_group = _control_groups() / "kubepods/besteffort" / f"pod{self.uid}" / "compute"
        self._lower = Path("/") if release == OWN_RELEASE else root(release)
        self._cache = cache_directory() / f"launcher-{release}{'-session' if session else ''}"
        self._namespace = Namespace(self._setup(propagation))

    def start(self) -> None:
        for path in (self.volume, self.disks, self.root, self.directory / "memory", self._cache, self.control_group):
            path.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self.volume.chmod(0o777)
        if self.session:
            _give(self._cache)
        self._namespace.start()
        try:
            self.start_daemon()
        except BaseException:
            self.stop()
            raise

    def start_daemon(self) -> None:
        """Start libvirtd and wait until it answers."""
        daemon = ["libvirtd", "--daemon", "--pid-file", "/run/libvirtd/pid"]
        if self.session:
            variables = [
                "XDG_RUNTIME_DIR=/run",
                "XDG_CONFIG_HOME=/run/kubevirt-private",
                "HOME=/",
                "PATH=/usr/sbin:/usr/bin",
            ]
            user = ["setpriv", f"--reuid={QEMU_USER}", f"--regid={QEMU_USER}", "--clear-groups"]
            daemon = [*user, "env", "-i", *variables, "XDG_CACHE_HOME=/var/cache", *daemon]
        self.run(*daemon)
        deadline = time.monotonic() + DAEMON_SECONDS
        while True:
            try:
                self.connect().close()
            except libvirt.libvirtError:
                assert time.monotonic() < deadline, "the pod's libvirtd does not answer"
                time.sleep(0.05)
            else:
                return

    def kill_daemon(self) -> None:
        """SIGKILL libvirtd; QEMU goes on, and nobody starts a new daemon."""
        self.run(
            "sh", "-c", "pid=$(cat /run/libvirtd/pid); kill -KILL $pid; while kill -0 $pid 2>/dev/null; do :; done"
        )

    def connect(self) -> libvirt.virConnect:
        """Open a connection of the test's own: to the engine that is a stranger."""
        mode = "session" if self.session else "system"
        inside = f"/proc/{self.pid}/root{self.root}/run/libvirt/libvirt-sock"
        return libvirt.open(f"qemu+unix:///{mode}?socket={inside}")

    @property
    def pid(self) -> int:
        """The PID, as seen outside, of the first process in the pod."""
        holder = self._namespace.pid
        return int(Path(f"/proc/{holder}/task/{holder}/children").read_text().split()[0])

    def run(self, *arguments: str) -> str:
        """Run a command in the pod and return its stdout."""
        inside = self._namespace.command(*arguments, root=self.root)
        command = ["sh", "-c", JOIN, str(self.control_group / "cgroup.procs"), *inside]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{arguments} failed: {result.stderr or result.stdout}"
        return result.stdout

    def stop(self) -> None:
        """Kill everything in the pod and take its control group away; its files stay, as for a kubelet's moment."""
        self._namespace.stop()
        for path in (self.control_group, self.control_group.parent):
            if path.exists():
                path.rmdir()

    def _setup(self, propagation: str) -> str:
        memory, upper, work = (self.directory / name for name in ("memory", "memory/upper", "memory/work"))
        qemu_conf = QEMU_CONF + ("" if self.session else ROOTS_QEMU)
        conf = "/run/kubevirt-private/libvirt/qemu.conf" if self.session else "/etc/libvirt/qemu.conf"
        writable = f"./run/libvirt ./run/libvirtd ./run/kubevirt-private .{VMI_DISKS}"
        return f"""
            echo 0 > '{self.control_group}/cgroup.procs'
            mount -t tmpfs tmpfs '{memory}'
            mkdir '{upper}' '{work}'
            mount -t overlay overlay -o 'lowerdir={self._lower},upperdir={upper},workdir={work}' '{self.root}'
            mount -t proc proc '{self.root}/proc'
            mount --rbind /dev '{self.root}/dev'
            mount --rbind /sys '{self.root}/sys'
            mount -t tmpfs tmpfs '{self.root}/run'
            mount -t tmpfs tmpfs '{self.root}/var/tmp'
            cd '{self.root}'
            mkdir -p .{HOTPLUG_DISKS} run/kubevirt-private/libvirt {writable}
            mount --bind '{self.volume}' .{HOTPLUG_DISKS}
            mount --make-{propagation} .{HOTPLUG_DISKS}
            mount --bind '{self.disks}' .{VMI_DISKS}
            mkdir -p var/cache/libvirt
            mount --bind '{self._cache}' var/cache/libvirt
            rm -rf etc/libvirt/qemu var/run
            ln -s /run var/run
            mkdir -p etc/libvirt
            printf '%s' '{qemu_conf}' > .{conf}
            has() {{ cut -d: -f3 "$1" | grep -qx {QEMU_USER}; }}
            has etc/passwd || echo 'qemu:x:{QEMU_USER}:{QEMU_USER}::/:/bin/false' >> etc/passwd
            has etc/group || echo 'qemu:x:{QEMU_USER}:' >> etc/group
            {f"chown -R {QEMU_USER}:{QEMU_USER} {writable}" if self.session else ""}
            cd /
        """

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _give(path: Path) -> None:
    subprocess.run(["chown", "-R", f"{QEMU_USER}:{QEMU_USER}", str(path)], check=True)


def _control_groups() -> Path:
    """Return where control groups can be made, whatever their version."""
    legacy = Path("/sys/fs/cgroup/pids")
    return legacy if (legacy / "cgroup.procs").exists() else Path("/sys/fs/cgroup")
