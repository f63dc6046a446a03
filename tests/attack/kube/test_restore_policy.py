"""An agent's token and VMRestores: the same border as for VMBackups, a restore of another node is out of reach."""

from collections.abc import Callable
from typing import Any

import pytest

from attack.kube.conftest import Agent, Body, Cluster, dumped, refusal
from vmbackup.api import names
from vmbackup.cluster.errors import Denied
from vmbackup.cluster.resources import SCHEDULE, VMRESTORE

COPYING = {"status": {"phase": "Copying"}}


def restore(cluster: Cluster, name: str, node: str = "") -> Body:
    """Make a VMRestore, as its user and the controller do; with `node` it is bound."""
    spec = {"source": {"backup": "nightly"}, "target": {"newDomain": {"name": "web-2"}}}
    body = {"apiVersion": names.API_VERSION, "kind": "VMRestore", "metadata": {"name": name, "namespace": "default"}}
    cluster.admin.create(VMRESTORE.collection("default"), body | {"spec": spec})
    status = {"node": node, "phase": "Assigned"} if node else {}
    return cluster.admin.patch(f"{path(name)}/status", {"status": status})


def path(name: str) -> str:
    return VMRESTORE.path(name, "default")


def report(agent: Agent, name: str, body: Body) -> Body:
    return agent.client.patch(f"{path(name)}/status", body)


def test_agent_reports_on_a_restore_of_its_node(cluster: Cluster, node_1: Agent, name: str) -> None:
    restore(cluster, name, "node-1")
    assert report(node_1, name, COPYING)["status"]["phase"] == "Copying"


@pytest.mark.parametrize("bound_to", ["node-2", ""])
def test_restore_of_another_node_or_of_none_cannot_be_reported_on(
    cluster: Cluster, node_1: Agent, name: str, bound_to: str
) -> None:
    before = restore(cluster, name, bound_to)
    words = refusal(lambda: report(node_1, name, {"status": {"phase": "Done", "outcome": "Succeeded"}}))
    assert "VMRestore is not bound to the agent's node node-1" in words
    assert refusal(lambda: report(node_1, name, {"status": {"node": "node-1"}}))
    assert cluster.admin.get(path(name)) == before


@pytest.mark.parametrize("node", ["node-2", None])
def test_restore_cannot_be_handed_to_another_node(cluster: Cluster, node_1: Agent, name: str, node: str | None) -> None:
    """A restore writes images: handed over it would write them on another node."""
    before = restore(cluster, name, "node-1")
    assert "hand a VMRestore over" in refusal(lambda: report(node_1, name, {"status": {"node": node}}))
    assert cluster.admin.get(path(name)) == before


def test_token_without_a_node_reports_on_no_restore(cluster: Cluster, nobody: Agent, name: str) -> None:
    restore(cluster, name, "node-1")
    assert "names no node" in refusal(lambda: report(nobody, name, COPYING))


@pytest.mark.parametrize(
    "smuggled",
    [
        {"spec": {"target": {"inPlace": {"overwrite": True}}}},
        {"spec": {"cancel": True}},
        {"metadata": {"finalizers": ["evil.example/never"]}},
    ],
    ids=dumped,
)
def test_spec_of_a_restore_cannot_ride_along_with_a_status(
    cluster: Cluster, node_1: Agent, name: str, smuggled: dict[str, Any]
) -> None:
    before = restore(cluster, name, "node-1")
    report(node_1, name, COPYING | smuggled)
    after = cluster.admin.get(path(name))
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("finalizers") == before["metadata"].get("finalizers")


def test_agent_makes_and_deletes_no_restore_and_reads_no_schedule(cluster: Cluster, node_1: Agent, name: str) -> None:
    before = restore(cluster, name, "node-1")
    deeds: list[Callable[[], object]] = [
        lambda: node_1.client.delete(path(name), before["metadata"]["uid"]),
        lambda: node_1.client.create(VMRESTORE.collection("default"), before),
        lambda: node_1.client.get(SCHEDULE.collection("default")),
    ]
    for deed in deeds:
        with pytest.raises(Denied):
            deed()


def test_wide_roles_do_not_open_restores(cluster: Cluster, node_1: Agent, name: str) -> None:
    """The roles allow everything here: the policy stands alone."""
    own, other = restore(cluster, name, "node-1"), restore(cluster, f"{name}-b", "node-2")
    with cluster.wide_roles():
        deeds: list[Callable[[], object]] = [
            lambda: node_1.client.patch(path(name), {"spec": {"cancel": True}}),
            lambda: node_1.client.delete(path(name), own["metadata"]["uid"]),
            lambda: node_1.client.call("DELETE", VMRESTORE.collection("default")),
            lambda: report(node_1, f"{name}-b", COPYING),
        ]
        words = [refusal(deed) for deed in deeds]
    assert all(words), words
    assert (cluster.admin.get(path(name)), cluster.admin.get(path(f"{name}-b"))) == (own, other)
