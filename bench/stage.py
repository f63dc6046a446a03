"""What all sides are measured on: one libvirtd 9.0, one idle VM, one file system; later also a cluster with us."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.cache import remove
from testbed.controlplane import ControlPlane
from testbed.guests import Disk, domain_xml, start_guest
from testbed.holder import AGENT, CONTROLLER, REPOSITORY, Operator
from testbed.hypervisor import Libvirtd
from testbed.images import disk_image
from testbed.tools import tool

GIB = 1 << 30
VIRTUAL_BYTES, DATA_BYTES = 4 * GIB, GIB
NAMESPACE, VM, LOCATION, NODE = "demo", "db", "local", "bench"
DOMAIN = f"{NAMESPACE}_{VM}"
SIDE_SECONDS = 300
READY = """--for=jsonpath={.status.conditions[?(@.type=="Ready")].status}=True"""


@dataclass(frozen=True)
class Stage:
    """`work`: where sides put what they write, in the file system of the disk.

    `sets`: the location. `restored`: where our restores put their images.
    """

    host: Libvirtd
    disk: Path
    state: Path

    @property
    def uri(self) -> str:
        return self.host.uri

    @property
    def work(self) -> Path:
        return self.host.images / "work"

    @property
    def sets(self) -> Path:
        return self.state / "sets"

    @property
    def restored(self) -> Path:
        return self.state / "restored"

    def prepare(self) -> None:
        """Make it alike for everybody: nothing written waits for the disk, the source is in the page cache."""
        for directory in (
            self.work,
            self.sets,
            self.restored,
        ):  # they stay themselves: the agent looks whether its location is there
            for entry in directory.iterdir():
                remove(entry)
        os.sync()
        with self.disk.open("rb") as stream:
            while stream.read(1 << 20):
                pass


@contextlib.contextmanager
def stage(state: Path) -> Iterator[Stage]:
    """Set daemon and VM up below `state`, which is removed at the end."""
    shutil.rmtree(state, ignore_errors=True)
    (state / "log").mkdir(parents=True)
    try:
        with Libvirtd("9.0", directory=state / "virt") as host:
            disk = disk_image(host.images / "db.qcow2", "qcow2", VIRTUAL_BYTES, DATA_BYTES)
            start_guest(host.uri, domain_xml(DOMAIN, [Disk(disk)]))
            made = Stage(host, disk, state)
            made.work.mkdir()
            made.work.chmod(0o777)  # virtnbdbackup's scratch file is made by QEMU
            made.sets.mkdir()
            made.restored.mkdir()
            yield made
    finally:
        shutil.rmtree(state, ignore_errors=True)


@contextlib.contextmanager
def operator(stage: Stage) -> Iterator[ControlPlane]:
    """Yield a cluster in which controller and agent run and are Ready; they end with our PID namespace.

    Not there while the engine is measured: an agent ends jobs that look like ours and that its journal does not know.
    """
    with ControlPlane(stage.state / "k8s") as cluster:
        _start_operator(stage, cluster)
        yield cluster


def resident_mib(role: str) -> float:
    """Return VmRSS of the controller or agent, the only one in our PID namespace."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0")
            if words[1:4] == ["-m", "vmbackup", role]:
                lines = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
                return int(lines["VmRSS"].split()[0]) / 1024
    raise RuntimeError(f"no {role} runs")


def run(command: Sequence[str]) -> None:
    """Run a command to its end. Raises RuntimeError with what it said when it fails."""
    output(command)


def output(command: Sequence[str]) -> str:
    """Run a command and return what it printed. Raises RuntimeError with what it said when it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SIDE_SECONDS)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    return ended.stdout


def kubectl(cluster: ControlPlane, *arguments: str) -> list[str]:
    """Return a kubectl command line."""
    cache = cluster.directory / "kubectl-cache"
    return [str(tool("kubectl")), f"--kubeconfig={cluster.kubeconfig}", f"--cache-dir={cache}", *arguments]


def _start_operator(stage: Stage, cluster: ControlPlane) -> None:
    cluster.apply(REPOSITORY / "crds")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    spec = {"directory": {"path": str(stage.sets)}, "allowedNamespaces": {"names": [NAMESPACE]}}
    kind = {"apiVersion": "vmbackup.dev/v1alpha1", "kind": "VMBackupLocation", "metadata": {"name": LOCATION}}
    cluster.apply(kind | {"spec": spec})
    programs = Operator(stage.state, cluster, stage.host, NODE)
    programs.start(CONTROLLER)
    programs.start(AGENT)
    for what in (f"vmhost/{NODE}", f"vmbackuplocation/{LOCATION}"):
        run(kubectl(cluster, "wait", "--for=create", "--timeout=60s", what))
        run(kubectl(cluster, "wait", READY, "--timeout=60s", what))
