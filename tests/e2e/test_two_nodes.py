"""Two nodes, each with a libvirt daemon and an agent of its own."""

from pathlib import Path

import pytest

from e2e.conftest import TENANT
from e2e.installation import LOCATION, Installation
from e2e.machines import Backups, Machine, assert_identical, idle_machine
from integration.system.backup import eventually
from testbed.node import Node
from testbed.realcluster import RealCluster


@pytest.fixture(scope="module")
def second(cluster: RealCluster, installed: Installation) -> Node:
    """A second node, on which the DaemonSet starts an agent by itself."""
    node = cluster.add_node()
    eventually(lambda: installed.running_agent(node.name), f"an agent runs on {node.name}", 120)
    installed.until_ready("vmhost", node.name)
    return node


@pytest.fixture(scope="module")
def there(second: Node) -> Machine:
    return idle_machine(second, f"{TENANT}_there")


def sets(node: Node, machine: Machine) -> list[Path]:
    return list((node.outside(LOCATION) / machine.namespace / machine.name).glob("*"))


def test_each_agent_does_its_own_nodes_work(
    backups: Backups, database: Machine, there: Machine, node: Node, second: Node
) -> None:
    backups.ask("both-here", database)
    backups.ask("both-there", there)
    for name, machine, own, other in (("both-here", database, node, second), ("both-there", there, second, node)):
        backup = backups.until_succeeded(name)
        assert backup.status["node"] == own.name
        assert_identical(backups.read_set(backup, own), machine)
        assert sets(other, machine) == []


def test_dead_agents_work_is_left_to_it(
    installed: Installation, backups: Backups, database: Machine, there: Machine, node: Node, second: Node
) -> None:
    backups.ask("dead-here", database, method="Snapshot", maxBytesPerSecond="16Mi")
    backups.until_copying("dead-here")
    installed.kill_agent(node.name)
    backups.ask("dead-there", there)
    assert backups.until_succeeded("dead-there").status["node"] == second.name
    backup = backups.until_succeeded("dead-here")
    assert backup.status["node"] == node.name
    assert_identical(backups.read_set(backup, node), database)
    assert sets(second, database) == []
