"""A real node: containerd, kubelet and a libvirt daemon, in namespaces of its own."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.control_groups import make_control_groups, remove_control_groups
from testbed.errors import TestbedError
from testbed.fullplane import FullControlPlane
from testbed.hypervisor import Libvirtd
from testbed.network import ClusterNetwork
from testbed.node_settings import CONTAINERD_SOCKET, Places, containerd_settings, kubelet_settings, pod_network
from testbed.tools import tool

READY_SECONDS = 120
# What the node has for itself of the machine's file system; each is a directory of the node's.
OWN = ("/var/log", "/srv", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/lib/vmbackup-operator")
# kubelet sets these for the whole machine. It finds them set as it likes and leaves the machine's alone.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}


class Node:
    """One node of a cluster; nothing is left of it when it stops or when this process ends.

    Attributes: `name`, `host` (its libvirt daemon; `host.run(...)` runs a command on the node), `directory`.
    Seen from outside, the node's files are where `outside(path)` says.
    """

    def __init__(
        self, name: str, number: int, directory: Path, plane: FullControlPlane, network: ClusterNetwork
    ) -> None:
        """number: 1, 2 and so on, different for each node of a network."""
        self.name, self.directory = name, directory.resolve()
        self._number, self._plane, self._network = number, plane, network
        self._address = network.node_address(number)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._control_group = f"vmbackup-{directory.parent.name}-{name}"
        self.host = Libvirtd(
            directory=self.directory / "virt",
            setup=self._mounts(),
            network=network.namespace,
            afterwards=remove_control_groups(self._control_group),
        )

    def start(self) -> None:
        """Start everything and return when the node is Ready. Raises TestbedError when it does not become so."""
        for path in OWN:
            self._own(path).mkdir(parents=True, exist_ok=True)
        self._own("settings").mkdir()
        for setting, value in KERNEL_SETTINGS.items():
            self._own("settings").joinpath(setting.replace("/", ".")).write_text(f"{value}\n")
        self.images.mkdir(parents=True)
        self._write_settings()
        make_control_groups(self._control_group)
        self._network.add_address(self._address)
        self.host.start()
        try:
            self._spawn("containerd", "--config", str(self._own("containerd.toml")))
            self._until("containerd answers", lambda: self.ctr("version"))
            self._spawn(
                "kubelet",
                f"--config={self._own('kubelet.json')}",
                f"--kubeconfig={self._plane.node_kubeconfig(self.name)}",
                f"--hostname-override={self.name}",
                f"--node-ip={self._address}",
            )
            self._until("the node is there", lambda: self._plane.kubectl("get", "node", self.name))
            wait = f"--timeout={READY_SECONDS}s"
            self._plane.kubectl("wait", "--for=condition=Ready", wait, f"node/{self.name}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes and drop all mounts of the node; the files stay."""
        self.host.stop()
        while self._processes:
            self._processes.pop().wait()

    @property
    def images(self) -> Path:
        """The node's /var/lib/libvirt/images, seen from outside."""
        return self.outside("/var/lib/libvirt/images")

    def outside(self, path: str | Path) -> Path:
        """Return where a path of the node is seen from outside. Raises TestbedError when it is nowhere."""
        for own, at in self._places():
            if Path(path).is_relative_to(own):
                return at / Path(path).relative_to(own)
        raise TestbedError(f"{path} of {self.name} is not seen from outside: only {', '.join(OWN)} are.")

    def load(self, archive: Path) -> None:
        """Import the images of an OCI archive. Raises TestbedError when containerd refuses."""
        self.ctr("-n", "k8s.io", "images", "import", str(archive))

    def ctr(self, *arguments: str) -> str:
        """Run containerd's client and return its stdout. Raises TestbedError when it fails."""
        return self.host.run(str(tool("ctr")), "--address", CONTAINERD_SOCKET, *arguments)

    def last_words(self, program: str, characters: int = 3000) -> str:
        """Return the end of the log of containerd or kubelet."""
        log = self._own(f"{program}.log")
        return log.read_text(errors="replace")[-characters:] if log.exists() else ""

    def _places(self) -> Iterator[tuple[str, Path]]:
        yield "/var/lib/libvirt", self.host.directory / "lib"
        yield "/run/libvirt", self.host.directory / "run"
        yield from ((path, self._own(path)) for path in OWN)

    def _own(self, path: str) -> Path:
        return self.directory / path.strip("/").replace("/", "-")

    def _mounts(self) -> str:
        """Return the shell lines that take the machine's places away and put the node's there."""
        lines = [
            "mount --make-rshared /",  # mounts reach pods, and those of pods the node
            "mount -t tmpfs tmpfs /run",
            "mkdir /run/lock",
            "mount -t tmpfs tmpfs /var/lib",
        ]
        for path in OWN:
            lines += [f"mkdir -p {path}", f"mount --bind '{self._own(path)}' {path}"]
        for setting in KERNEL_SETTINGS:
            lines.append(f"mount --bind '{self._own('settings')}/{setting.replace('/', '.')}' /proc/sys/{setting}")
        return "\n".join(lines)

    def _spawn(self, name: str, *arguments: str) -> None:
        program = tool(name)
        # containerd finds its shim beside itself.
        path = f"PATH={program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        with self._own(f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.host.namespace.command("env", "-i", path, str(program), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._processes.append(process)

    def _until(self, what: str, test: Callable[[], str]) -> None:
        """Poll until `test` raises no TestbedError. Raises the last one when time is up."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                test()
            except TestbedError as error:
                if time.monotonic() > deadline:
                    logs = "\n".join(self.last_words(name) for name in ("containerd", "kubelet"))
                    raise TestbedError(f"{self.name}: never came: {what}: {error}\n{logs}") from error
                time.sleep(0.1)
            else:
                return

    def _write_settings(self) -> None:
        places = Places(
            network=self._own("cni"),
            containerd_opt=self._own("opt"),
            volume_plugins=self._own("volume-plugins"),
            runc=tool("runc"),
            authority=self._plane.certificate,
        )
        self._own("cni").mkdir()
        (self._own("cni") / "10-pods.conflist").write_text(pod_network(self._number))
        self._own("containerd.toml").write_text(containerd_settings(places))
        self._own("kubelet.json").write_text(kubelet_settings(places, self._address, self._control_group))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
