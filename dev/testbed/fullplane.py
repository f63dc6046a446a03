"""A control plane for nodes: with controllers and scheduler, in the network of the cluster."""

import secrets
import subprocess
from pathlib import Path

from testbed.controlplane import ControlPlane
from testbed.network import KUBERNETES_SERVICE, ClusterNetwork, without_proxy
from testbed.tools import tool

NODES = ("node-1", "node-2")
CERTIFICATE_USER = "testbed"  # the common name of the one certificate: how kubelets see the API server


class FullControlPlane(ControlPlane):
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler, for the nodes in NODES."""

    def __init__(self, directory: Path, network: ClusterNetwork) -> None:
        super().__init__(directory)
        self._network = network
        self._port = 443  # where pods look for it
        self.url = f"https://{network.address}"
        self._names += [f"IP:{network.address}", f"IP:{KUBERNETES_SERVICE}"]
        self._tokens = {node: secrets.token_urlsafe(32) for node in NODES}
        self._users += [f'{token},system:node:{node},{node},"system:nodes"' for node, token in self._tokens.items()]

    def start(self) -> None:
        """Start all four and wait until the API server is ready. Raises TestbedError when one fails."""
        super().start()
        try:
            # What the API server may ask of a kubelet: logs, exec.
            user = f"--user={CERTIFICATE_USER}"
            self.kubectl("create", "clusterrolebinding", "testbed", "--clusterrole=system:kubelet-api-admin", user)
            key = self.directory / "tls.key"
            common = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--secure-port=0")
            self._spawn(
                "kube-controller-manager",
                *common,
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={self.certificate}",
            )
            self._spawn("kube-scheduler", *common)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all four; files stay in `directory`."""
        self._kill("kube-scheduler")
        self._kill("kube-controller-manager")
        super().stop()

    def node_kubeconfig(self, node: str) -> Path:
        """Return the kubeconfig of a node in NODES, for its kubelet."""
        path = self.directory / f"{node}.kubeconfig"
        self._write_kubeconfig(path, node, self._tokens[node])
        return path

    def helm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run helm as the administrator, with files of its own, and return how it ended."""
        homes = {
            name: str(self.directory / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }
        environment = without_proxy(self._network.address) | homes | {"KUBECONFIG": str(self.kubeconfig)}
        command = [str(tool("helm")), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def _apiserver_flags(self) -> list[str]:
        return [
            "--bind-address=0.0.0.0",
            f"--advertise-address={self._network.address}",
            f"--client-ca-file={self.certificate}",
            f"--kubelet-client-certificate={self.certificate}",
            f"--kubelet-client-key={self.directory / 'tls.key'}",
        ]

    def _command(self, *arguments: str) -> list[str]:
        return self._network.namespace.in_network(*super()._command(*arguments))

    def _wait(self, name: str, url: str) -> None:
        if name != "etcd":  # its address is the cluster's own; the API server waits for it
            super()._wait(name, url)
