"""A real API server with our CRDs, and a namespace of its own for every test."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from testbed.controlplane import ControlPlane
from vmbackup.api import names

CRDS = Path(__file__).resolve().parents[3] / "crds"
Body = dict[str, Any]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with the CRDs applied; kubectl by `cluster.kubectl(...)`."""
    directory = tmp_path_factory.mktemp("kube")
    with pytest.MonkeyPatch.context() as environment, ControlPlane(directory / "control-plane") as plane:
        # kubectl remembers for minutes what a server on this port knew; ports come back.
        environment.setenv("KUBECACHEDIR", str(directory / "kubectl-cache"))
        plane.apply(CRDS)
        yield plane


@pytest.fixture(scope="session")
def client_of_admin(cluster: ControlPlane) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    config.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
    settings.proxy = None  # the machine's proxy is not meant for 127.0.0.1
    with client.ApiClient(settings) as api_client:
        yield api_client


class Api:
    """The API server as one test sees it: VMBackups of its own namespace, cluster-scoped objects of its own names.

    `custom` and `core` are the administrator's clients. What the server refuses raises client.ApiException.
    """

    def __init__(self, cluster: ControlPlane, api_client: client.ApiClient, namespace: str) -> None:
        self.cluster = cluster
        self.custom = client.CustomObjectsApi(api_client)
        self.core = client.CoreV1Api(api_client)
        self.namespace = namespace
        self.backups = (names.GROUP, names.VERSION, namespace, "vmbackups")

    def make(self, name: str = "backup", **spec: Any) -> Body:
        """Create a VMBackup of VM `web` into location `local`; keywords are fields of the spec."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "VMBackup",
            "metadata": {"name": name},
            "spec": {"source": {"name": "web"}, "location": "local"} | spec,
        }
        return dict(self.custom.create_namespaced_custom_object(*self.backups, body))

    def read(self, name: str = "backup") -> Body:
        return dict(self.custom.get_namespaced_custom_object(*self.backups, name))

    def change(self, name: str = "backup", **spec: Any) -> Body:
        """Merge fields into the spec; None removes one."""
        return dict(self.custom.patch_namespaced_custom_object(*self.backups, name, {"spec": spec}))

    def report(self, name: str = "backup", **status: Any) -> Body:
        """Merge fields into the status; None removes one."""
        return dict(self.custom.patch_namespaced_custom_object_status(*self.backups, name, {"status": status}))

    def make_in_cluster(self, kind: str, name: str = "", **fields: Any) -> Body:
        """Create a VMBackupLocation or a VMHost, by default with the namespace's name; keywords are its parts."""
        body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name or self.namespace}} | fields
        plural = f"{kind.lower()}s"
        return dict(self.custom.create_cluster_custom_object(names.GROUP, names.VERSION, plural, body))

    def make_location(self, name: str = "", path: str = "/srv/backups", **spec: Any) -> Body:
        return self.make_in_cluster("VMBackupLocation", name, spec={"directory": {"path": path}} | spec)

    def change_in_cluster(self, plural: str, body: Body, *, status: bool = False) -> Body:
        """Merge `body` into the cluster-scoped object that has the namespace's name."""
        patch = self.custom.patch_cluster_custom_object_status if status else self.custom.patch_cluster_custom_object
        return dict(patch(names.GROUP, names.VERSION, plural, self.namespace, body))

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        """Run `kubectl get` in the namespace and return its table, one dictionary per line."""
        head, *lines = self.cluster.kubectl("get", "--namespace", self.namespace, *arguments).splitlines()
        starts = [at for at in range(len(head)) if head[at] != " " and (at == 0 or head[at - 2 : at].isspace())]
        ends = [*starts[1:], None]
        titles = [head[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        cells = [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines]
        return [dict(zip(titles, row, strict=True)) for row in cells]

    @contextlib.contextmanager
    def refused(self, *sentences: str) -> Iterator[None]:
        """Expect that the server calls the object invalid and says all of `sentences`."""
        with pytest.raises(client.ApiException) as caught:
            yield
        message = json.loads(caught.value.body)["message"]
        assert caught.value.status == 422, message
        for sentence in sentences:
            assert sentence in message


@pytest.fixture
def namespace(cluster: ControlPlane, client_of_admin: client.ApiClient) -> str:
    """A fresh namespace. It stays: nothing in the control plane would finish its deletion."""
    made = client.CoreV1Api(client_of_admin).create_namespace({"metadata": {"generateName": "test-"}})
    return str(made.metadata.name)


@pytest.fixture
def api(cluster: ControlPlane, client_of_admin: client.ApiClient, namespace: str) -> Api:
    return Api(cluster, client_of_admin, namespace)
