"""A real cluster for all tests, and the operator installed in it for each file of tests."""

from collections.abc import Callable, Iterator

import pytest

from e2e.installation import LOCATION, Installation
from e2e.launchers import Launcher, install_vmi_kind
from e2e.machines import HELD_BYTES, Backups, Machine, booted_machine, idle_machine
from testbed.containers import launcher_image, operator_image
from testbed.node import Node
from testbed.realcluster import RealCluster

TENANT = "demo"


@pytest.fixture(scope="session")
def cluster() -> Iterator[RealCluster]:
    """Control plane and one node, with the operator's image of this checkout on it."""
    image = operator_image()
    with RealCluster(directories=[LOCATION]) as cluster:
        cluster.load(image)
        yield cluster


@pytest.fixture(scope="session")
def node(cluster: RealCluster) -> Node:
    return cluster.nodes["node-1"]


@pytest.fixture(scope="module")
def installed(cluster: RealCluster) -> Iterator[Installation]:
    """The operator installed by Helm, with a location `local` for the namespace `demo`; taken away at the end."""
    installation = Installation(cluster)
    installation.helm_install()
    installation.make_location("local", TENANT)
    yield installation
    installation.helm_uninstall()


@pytest.fixture
def backups(installed: Installation) -> Iterator[Backups]:
    """Backups to the location, over at the end of each test."""
    backups = Backups(installed, TENANT, "local")
    yield backups
    backups.settle()


@pytest.fixture(scope="session")
def database(node: Node) -> Machine:
    """A VM of the node's own libvirt daemon that runs and writes nothing."""
    return idle_machine(node, f"{TENANT}_db", 256 << 20)


@pytest.fixture
def large(node: Node) -> Iterator[Machine]:
    """A VM that runs, writes nothing and has so much data that a push of it can be held."""
    machine = idle_machine(node, f"{TENANT}_large", HELD_BYTES)
    yield machine
    machine.remove()


@pytest.fixture(scope="session")
def web(node: Node) -> Machine:
    """A VM that boots and writes to its two disks all the time."""
    return booted_machine(node, f"{TENANT}_web")


@pytest.fixture(scope="session")
def launchers(cluster: RealCluster) -> Iterator[Callable[..., Launcher]]:
    """Start launcher pods: `launchers("vm1", session=True)` on node-1, in the tenant's namespace; see Launcher.

    more: `data_bytes`; a push of less than HELD_BYTES may be over before a speed limit bites.
    """
    cluster.load(launcher_image())
    install_vmi_kind(cluster)
    cluster.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}})
    started: list[Launcher] = []

    def start(name: str, *, session: bool, node: str = "node-1", **more: int) -> Launcher:
        launcher = Launcher(cluster, cluster.nodes[node], TENANT, name, session=session)
        started.append(launcher)
        launcher.start(**more)
        return launcher

    yield start
    for launcher in started:
        launcher.remove()
