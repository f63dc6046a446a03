"""The whole product on real parts: kube-apiserver, libvirtd, controller and agents as processes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from integration.system.programs import Node, Stage
from integration.system.restores import Restores
from integration.system.tenant import Tenant
from testbed.controlplane import ControlPlane
from testbed.hypervisor import Libvirtd

CRDS = Path(__file__).resolve().parents[3] / "crds"


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A directory that the qemu user may enter."""
    path = Path(tempfile.mkdtemp(prefix="vbsys-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    if "VMBACKUP_KEEP" not in os.environ:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def full_stage(directory: Path) -> Iterator[Stage]:
    """Control plane, controller and one node."""
    with (
        pytest.MonkeyPatch.context() as environment,
        ControlPlane(directory / "k8s") as cluster,
        Libvirtd("9.0", directory=directory / "v1") as host,
    ):
        # kubectl remembers for minutes what a server on this port knew; ports come back.
        environment.setenv("KUBECACHEDIR", str(directory / "kubectl-cache"))
        cluster.apply(CRDS)
        stage = Stage(cluster, directory)
        stage.controller.start()
        stage.add_node("node-1", host)
        yield stage
        stage.stop()


@pytest.fixture
def stage(full_stage: Stage) -> Iterator[Stage]:
    """The stage, whole at the end of every test."""
    yield full_stage
    full_stage.mend()


@pytest.fixture(scope="session")
def second_node(full_stage: Stage, directory: Path) -> Iterator[Node]:
    """A second libvirt daemon with an agent of its own."""
    with Libvirtd("9.0", directory=directory / "v2") as host:
        yield full_stage.add_node("node-2", host)


@pytest.fixture(scope="session")
def api(full_stage: Stage) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    config.load_kube_config(str(full_stage.cluster.kubeconfig), client_configuration=settings)
    settings.proxy = None  # the machine's proxy is not meant for 127.0.0.1
    with client.ApiClient(settings) as api_client:
        yield api_client


@pytest.fixture
def stranger(stage: Stage, api: client.ApiClient) -> Iterator[Tenant]:
    """A user of another namespace."""
    yield from _tenant(stage, api)


@pytest.fixture
def tenant(stage: Stage, api: client.ApiClient) -> Iterator[Tenant]:
    """A user with a namespace and a location."""
    yield from _tenant(stage, api)


@pytest.fixture
def restores(tenant: Tenant) -> Iterator[Restores]:
    """The restores of that user."""
    found = Restores(tenant)
    yield found
    found.leave()


def _tenant(stage: Stage, api: client.ApiClient) -> Iterator[Tenant]:
    made = client.CoreV1Api(api).create_namespace({"metadata": {"generateName": "team-"}})
    tenant = Tenant(stage, api, str(made.metadata.name))
    tenant.make_location()
    yield tenant
    stage.mend()
    tenant.leave()
