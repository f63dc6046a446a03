"""Controller and agents as real processes, and the nodes that the agents work on."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed.controlplane import ControlPlane
from testbed.hypervisor import Libvirtd
from vmbackup.api import names

SYSTEM_NAMESPACE = "vmbackup-system"
END_SECONDS = 30
ANY_METRICS_PORT = ("--metrics-address", "127.0.0.1:0")
COMMAND = (sys.executable, "-m", "vmbackup")
# A mount of the agent's own, gone with it: its locations may be read-only without a trace on this machine.
READ_ONLY_MOUNT = ("unshare", "--mount", "--propagation", "slave", "sh", "-c")
MOUNT_AND_EXEC = 'mount -t tmpfs -o ro,size=1m none "$0" && exec "$@"'


class Program:
    """One of our processes. It ends with the tests, whatever they die of."""

    def __init__(self, arguments: Sequence[str], log: Path, variables: dict[str, str]) -> None:
        self._arguments, self._variables = tuple(arguments), variables
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run already."""
        if self.runs:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                env=os.environ | self._variables,
            )

    def kill(self) -> None:
        """SIGKILL: the process has no say in it."""
        self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, as a kubelet sends it; return the exit code."""
        return self._end(signal.SIGTERM)

    def word_count(self) -> int:
        return len(self.last_words(1 << 30).split())

    def last_words(self, characters: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(END_SECONDS)


class Node:
    """A libvirt daemon and the agent that belongs to it."""

    def __init__(self, name: str, host: Libvirtd, directory: Path, kubeconfig: Path) -> None:
        self.name, self.host = name, host
        self.read_only = directory / "read-only"  # in the eyes of the agent
        self._directory, self._kubeconfig = directory, kubeconfig
        self.read_only.mkdir(parents=True)
        self.agent = self.new_agent()

    @property
    def state(self) -> Path:
        return self._directory / "state"

    def new_agent(self, name: str = "agent", *, state: Path | None = None, kubeconfig: Path | None = None) -> Program:
        """Return an agent of this node that does not run yet."""
        flags = ["--node", self.name, "--state", str(state or self.state), "--probe-port", "0", *ANY_METRICS_PORT]
        flags += ["--images", str(self.host.images)]
        command = (*COMMAND, "agent", "--namespace", SYSTEM_NAMESPACE, *flags)
        variables = {"KUBECONFIG": str(kubeconfig or self._kubeconfig), "LIBVIRT_DEFAULT_URI": self.host.uri}
        arguments = (*READ_ONLY_MOUNT, MOUNT_AND_EXEC, str(self.read_only), *command)
        return Program(arguments, self._directory / f"{name}.log", variables)

    def lose_state(self) -> None:
        """Take the agent's disk away, as a new installation of the node does. The agent must be down."""
        shutil.rmtree(self.state)


class Stage:
    """The control plane with our CRDs, the controller and the nodes."""

    def __init__(self, cluster: ControlPlane, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self.nodes: dict[str, Node] = {}
        self._down: list[str] = []
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}})
        for account in ("agent", "controller"):
            cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, account)
        grant(cluster)
        kubeconfig = cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "controller")
        command = [
            *COMMAND,
            "controller",
            "--namespace",
            SYSTEM_NAMESPACE,
            "--probe-port",
            "0",
            "--missing-seconds",
            "5",
            *ANY_METRICS_PORT,
            "--removal-seconds",
            "10",
        ]
        self.controller = Program(command, directory / "controller.log", {"KUBECONFIG": str(kubeconfig)})

    def add_node(self, name: str, host: Libvirtd) -> Node:
        """Add a node and start its agent."""
        self.cluster.placeholder_pod(SYSTEM_NAMESPACE, f"agent-{name}", "agent", name)
        kubeconfig = self.cluster.service_account_kubeconfig(SYSTEM_NAMESPACE, "agent", f"agent-{name}")
        node = self.nodes[name] = Node(name, host, self.directory / name, kubeconfig)
        node.agent.start()
        return node

    def take_down(self, part: str) -> None:
        """Kill kube-apiserver or etcd."""
        self._down.append(part)
        if part == "etcd":
            self.cluster.stop_etcd()
        else:
            self.cluster.stop_apiserver()

    def mend(self) -> None:
        """Bring back everything that a test has taken down."""
        if "etcd" in self._down:
            self.cluster.start_etcd()
        if "kube-apiserver" in self._down:
            self.cluster.start_apiserver()
        self._down.clear()
        self.controller.start()
        for node in self.nodes.values():
            node.agent.start()

    def stop(self) -> None:
        for program in (self.controller, *(node.agent for node in self.nodes.values())):
            if program.runs:
                program.kill()

    def lease_of(self, node: Node) -> tuple[str, str, str]:
        """Return what kubectl needs to name the Lease of a node's agent."""
        return "lease", f"{names.LEASE_AGENT_PREFIX}{node.name}", f"--namespace={SYSTEM_NAMESPACE}"


def grant(cluster: ControlPlane) -> None:
    """Apply the project's own roles when it has them; until then both programs may do everything."""
    roles = Path(__file__).resolve().parents[3] / "manifests" / "rbac"
    if roles.is_dir():
        cluster.apply(roles)
        return
    accounts = [{"kind": "ServiceAccount", "namespace": SYSTEM_NAMESPACE, "name": at} for at in ("controller", "agent")]
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "vmbackup-everything"},
            "subjects": accounts,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        }
    )
