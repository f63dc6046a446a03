"""Two controllers: one leads, the other takes over, and a backup is bound once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.waiting import eventually
from integration.kube.processes import ControllerProcess, Node, controller, grant, vm
from testbed.controlplane import ControlPlane
from vmbackup.api import names
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import LOCATION, VMBACKUP

PATIENCE_SECONDS = 40.0


class QuickTerms:
    def __repr__(self) -> str:
        return "Terms(duration=4, renew_deadline=3, retry=0.5)"


@pytest.fixture
def client(cluster: ControlPlane) -> Iterator[Client]:
    client = Client(cluster.kubeconfig, field_manager="test")
    yield client
    client.close()


@pytest.fixture
def replicas(cluster: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[tuple[ControllerProcess, ...]]:
    """Two controllers whose Leases are in the test's namespace; the first one leads."""
    kubeconfig = grant(cluster, namespace)
    with controller(kubeconfig, namespace, tmp_path, "first", terms=QuickTerms()) as first:
        eventually(lambda: first.leads, "the first leads", PATIENCE_SECONDS)
        with controller(kubeconfig, namespace, tmp_path, "second", terms=QuickTerms()) as second:
            eventually(lambda: "the controller watches" in second.log, "the second watches", PATIENCE_SECONDS)
            yield first, second


def make(client: Client, namespace: str, name: str) -> None:
    spec = {"source": {"name": name}, "location": namespace}
    body = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": {"name": name}, "spec": spec}
    client.create(VMBACKUP.collection(namespace), body)


def bound(client: Client, namespace: str, name: str) -> None:
    def node() -> object:
        return client.get(VMBACKUP.path(name, namespace)).get("status", {}).get("node")

    eventually(node, f"{name} bound", PATIENCE_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_second_takes_over(
    replicas: tuple[ControllerProcess, ...], client: Client, namespace: str, number: signal.Signals
) -> None:
    first, second = replicas
    spec = {"directory": {"path": "/srv/backups"}, "allowedNamespaces": {"names": [namespace]}}
    body = {"apiVersion": names.API_VERSION, "kind": "VMBackupLocation", "metadata": {"name": namespace}, "spec": spec}
    client.create(LOCATION.collection(), body)
    node = Node(client, namespace, f"{namespace}-n1", namespace)
    node.beat()
    node.show(vm(namespace, "web", 1), vm(namespace, "db", 2))
    make(client, namespace, "web")
    bound(client, namespace, "web")
    assert not second.leads
    assert f"{namespace}/web: assigned" not in second.log
    code = first.end(number)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    eventually(lambda: second.leads, "the second leads", PATIENCE_SECONDS)
    make(client, namespace, "db")
    bound(client, namespace, "db")
    assert f"{namespace}/web: assigned" not in second.log, "what was bound stays as it is"


def test_who_cannot_renew_its_lead_ends(
    replicas: tuple[ControllerProcess, ...], client: Client, namespace: str
) -> None:
    first, second = replicas
    thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
    client.patch(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/vmbackup-controller", thief)
    eventually(lambda: not first.alive, "the old leader ends", PATIENCE_SECONDS)
    assert first.end() == 1
    assert "the lead is lost" in first.log
    assert second.alive
    assert not second.leads
