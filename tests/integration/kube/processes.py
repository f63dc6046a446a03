"""Controllers as processes of their own, and the agent's side of the API as a test plays it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from testbed.controlplane import ControlPlane
from vmbackup.api import names
from vmbackup.api.host import HostedVM, LocationSpace, VMHostStatus
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import LEASE, VMBACKUP, VMHOST, Resources

Body = dict[str, Any]
MANIFEST = Path(__file__).resolve().parents[3] / "manifests" / "rbac" / "controller.yaml"


def grant(cluster: ControlPlane, namespace: str) -> Path:
    """Give the controller's service account the shipped rights, in a namespace of the test; return its kubeconfig."""
    for body in yaml.safe_load_all(MANIFEST.read_text().replace("vmbackup-system", namespace)):
        if body["kind"] == "ClusterRoleBinding":
            body["metadata"]["name"] += f"-{namespace}"
        cluster.apply(body)
    return cluster.service_account_kubeconfig(namespace, "controller")


class ControllerProcess:
    """One controller. `log` is what it said so far."""

    def __init__(self, kubeconfig: Path, namespace: str, directory: Path, name: str = "controller", **options: object):
        self._log = directory / f"{name}.log"
        arguments = "".join(f", {key}={value!r}" for key, value in options.items())
        call = f"main({str(kubeconfig)!r}, {namespace!r}, probe_port=0{arguments})"
        imports = (
            "from vmbackup.controller import main; from vmbackup.cluster.lease import Terms; "
            "from vmbackup.core.turns import Limits"
        )
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{imports}; raise SystemExit({call})"],
                stdout=log,
                stderr=log,
                env={key: value for key, value in os.environ.items() if key != "KUBECONFIG"},
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def leads(self) -> bool:
        return self.alive and " leads" in self.log

    def end(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """Send a signal and return the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        return self._process.wait(seconds)


@contextlib.contextmanager
def controller(*arguments: Any, **options: object) -> Iterator[ControllerProcess]:
    process = ControllerProcess(*arguments, **options)
    try:
        yield process
    finally:
        if process.alive:
            process.end(signal.SIGKILL)


class Node:
    """A node as its agent shows it: Lease and VMHost."""

    def __init__(self, client: Client, system_namespace: str, name: str, location: str) -> None:
        self.name = name
        self._resources = Resources(client)
        self._namespace = system_namespace
        self._location = location

    def beat(self, age_seconds: float = 0, duration_seconds: int = 90) -> None:
        """Renew the Lease, as if it had been so long ago."""
        renewed = datetime.now(UTC) - timedelta(seconds=age_seconds)
        spec = {
            "holderIdentity": self.name,
            "leaseDurationSeconds": duration_seconds,
            "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        name = f"{names.LEASE_AGENT_PREFIX}{self.name}"
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
        with contextlib.suppress(Exception):
            self._resources.client.create(LEASE.collection(self._namespace), body)
        self._resources.client.patch(LEASE.path(name, self._namespace), {"spec": spec})

    def show(self, *vms: HostedVM) -> None:
        space = LocationSpace(node=self.name, location=self._location, ready=True, free_bytes=10, total_bytes=20)
        self._resources.put_status(VMHOST, self.name, VMHostStatus(vms=vms, locations=(space,)))

    def report(self, namespace: str, name: str, **status: Any) -> None:
        self._resources.client.patch(f"{VMBACKUP.path(name, namespace)}/status", {"status": status})


def vm(namespace: str, name: str, number: int, *, running: bool = True) -> HostedVM:
    uuid = f"{abs(hash(namespace)) % 16**8:08x}-0000-4000-8000-{number:012d}"
    return HostedVM(name=name, namespace=namespace, domain=f"{namespace}_{name}", uuid=uuid, running=running)
