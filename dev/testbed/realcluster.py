"""A real cluster on one machine: control plane and nodes, whose containers really run.

`python -m testbed.realcluster` only makes what takes minutes the first time: programs and images.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.containers import launcher_image, operator_image, pause_image
from testbed.errors import TestbedError
from testbed.fullplane import NODES, FullControlPlane
from testbed.network import ClusterNetwork
from testbed.node import Node
from testbed.tools import build

PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    "helm",
)


class RealCluster:
    """Control plane and up to two nodes; nothing is left when it stops or when this process ends or is killed.

    Attributes: `plane` (the control plane: `kubectl`, `apply`, `helm`, `kubeconfig`), `nodes` by name, `directory`.
    """

    def __init__(self, directories: Sequence[str] = ()) -> None:
        """`directories`: paths that every node has from the beginning, such as that of a location."""
        self._directories = directories
        self.directory = Path(tempfile.mkdtemp(prefix="vmbackup-cluster-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        # Whatever this process dies of, the files go, after the last process that writes them.
        remove = f"for i in $(seq 100); do rm -rf {self.directory} 2>/dev/null && break; sleep 0.1; done"
        self.network = ClusterNetwork(afterwards=remove)
        self.plane = FullControlPlane(self.directory / "k8s", self.network)
        self.nodes: dict[str, Node] = {}
        self._archives: list[Path] = []

    def start(self) -> None:
        """Build what is missing and start control plane and first node. Raises TestbedError when one does not come."""
        build(*PROGRAMS)
        self._archives.append(pause_image())
        self.network.start()
        try:
            self.plane.start()
            self.add_node()
        except BaseException:
            self.stop()
            raise

    def add_node(self) -> Node:
        """Start one more node of NODES, with the images that were loaded so far, and return it when it is Ready."""
        number = len(self.nodes) + 1
        name = NODES[number - 1]
        node = self.nodes[name] = Node(name, number, self.directory / name, self.plane, self.network)
        for path in self._directories:
            node.outside(path).mkdir(parents=True)
        node.start()
        for archive in self._archives:
            node.load(archive)
        return node

    def load(self, archive: Path) -> None:
        """Give an image to all nodes, those to come included."""
        self._archives.append(archive)
        for node in self.nodes.values():
            node.load(archive)

    def stop(self) -> None:
        """End everything and remove the files."""
        for node in self.nodes.values():
            node.stop()
        self.plane.stop()
        self.network.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def prepare() -> None:
    """Make everything that takes minutes the first time. Raises TestbedError when something cannot be made."""
    build(*PROGRAMS)
    for image in (pause_image, operator_image, launcher_image):
        image()


if __name__ == "__main__":
    try:
        prepare()
    except TestbedError as error:
        sys.exit(f"testbed: {error}")
