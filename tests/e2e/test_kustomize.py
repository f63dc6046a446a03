"""`kubectl apply -k manifests/default` does the same as Helm."""

from collections.abc import Iterator

import pytest

from e2e.conftest import TENANT
from e2e.installation import AGENTS, NAMESPACE, Installation
from e2e.machines import Backups, Machine, assert_identical
from testbed.node import Node
from testbed.realcluster import RealCluster


@pytest.fixture(scope="module")
def applied(cluster: RealCluster) -> Iterator[Installation]:
    installation = Installation(cluster)
    installation.apply_manifests()
    installation.make_location("local", TENANT)
    yield installation
    installation.delete_manifests()


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_backup_with_applied_manifests(applied: Installation, database: Machine, node: Node, method: str) -> None:
    assert len(applied.pods(NAMESPACE, "controller")) == 2
    assert len(applied.pods(AGENTS, "agent", node.name)) == 1
    backups = Backups(applied, TENANT, "local")
    name = f"db-applied-{method.lower()}"
    backups.ask(name, database, method=method, verify="Checksum")
    assert_identical(backups.read_set(backups.until_succeeded(name), node), database)
