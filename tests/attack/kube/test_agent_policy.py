"""An agent's token in the wrong hands: what it can write, and above all what it cannot.

First with the shipped roles; then with roles that allow everything, so that the policy stands alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attack.kube.conftest import SYSTEM, Agent, Cluster, dumped, refusal, user, vmbackup
from vmbackup.api import names
from vmbackup.api.host import LocationSpace, VMHostStatus
from vmbackup.api.vmbackup import ObjectMeta
from vmbackup.cluster.errors import Denied
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.heartbeat import Heartbeat
from vmbackup.cluster.lease import lease_body
from vmbackup.cluster.resources import EVENT, LEASE, VMBACKUP, VMHOST

COPYING = {"status": {"phase": "Copying"}}
NODE_CLAIM = "authentication.kubernetes.io/node-name"
LEASES = LEASE.collection(SYSTEM)


def lease_of(node: str) -> str:
    return f"{names.LEASE_AGENT_PREFIX}{node}"


# -- with its own roles -------------------------------------------------------------------------------------------


def test_token_of_a_pod_names_its_node_and_a_plain_one_does_not(node_1: Agent, nobody: Agent) -> None:
    assert node_1.claims()["extra"][NODE_CLAIM] == ["node-1"]
    assert node_1.claims()["username"] == nobody.claims()["username"] == user("agent")
    assert NODE_CLAIM not in nobody.claims().get("extra", {})


def test_agent_can_do_its_work(cluster: Cluster, node_1: Agent, name: str) -> None:
    cluster.backup(name, "node-1")
    assert node_1.report(name, COPYING)["status"]["phase"] == "Copying"
    seen = LocationSpace(node="node-1", location="nightly", ready=True)
    node_1.resources.put_status(VMHOST, "node-1", VMHostStatus(session="s", locations=(seen,)))
    heartbeat = Heartbeat(node_1.resources, SYSTEM, "node-1")
    heartbeat.renew()  # makes it
    heartbeat.renew()
    assert cluster.admin.get(LEASE.path(lease_of("node-1"), SYSTEM))["spec"]["holderIdentity"] == "node-1"


def event_of(agent: Agent, node: str, about: str, **changes: Any) -> dict[str, Any]:
    recorder = Recorder(agent.client, component=names.FIELD_MANAGER_AGENT, instance=node)
    metadata = ObjectMeta(name=about, namespace="default", uid="0f8fad5b-d9cb-469f-a165-70867728950e")
    happening = Happening("VMBackup", metadata, "Normal", "Started", "Backup", "begun")
    return recorder._event(happening, "default", f"{about}.{node}", 1_700_000_000.0) | changes


def test_agent_tells_events_in_its_own_name_only(cluster: Cluster, node_1: Agent, name: str) -> None:
    events = EVENT.collection("default")
    node_1.client.create(events, event_of(node_1, "node-1", name))
    assert "in its own name" in refusal(lambda: node_1.client.create(events, event_of(node_1, "node-2", name)))
    forged = event_of(node_1, "node-1", f"{name}-c", reportingController=names.FIELD_MANAGER_CONTROLLER)
    assert "in its own name" in refusal(lambda: node_1.client.create(events, forged))
    about_a_pod = event_of(node_1, "node-1", f"{name}-p", regarding={"apiVersion": "v1", "kind": "Pod", "name": "x"})
    assert "in its own name" in refusal(lambda: node_1.client.create(events, about_a_pod))


def test_agent_changes_no_event_of_another(cluster: Cluster, node_1: Agent, name: str) -> None:
    cluster.admin.create(EVENT.collection("default"), event_of(node_1, "node-2", name))
    path = EVENT.path(f"{name}.node-2", "default")
    series = {"series": {"count": 1000, "lastObservedTime": "2026-11-23T12:00:00.000000Z"}}  # the one mutable part
    assert refusal(lambda: node_1.client.patch(path, series))
    assert "series" not in cluster.admin.get(path)


@pytest.mark.parametrize("bound_to", ["node-2", ""])
def test_backup_of_another_node_or_of_none_cannot_be_reported_on(
    cluster: Cluster, node_1: Agent, name: str, bound_to: str
) -> None:
    before = cluster.backup(name, bound_to)
    assert "not bound to the agent's node node-1" in refusal(lambda: node_1.report(name, COPYING))
    assert cluster.read(name) == before


def test_backup_cannot_be_taken_from_another_node(cluster: Cluster, node_1: Agent, name: str) -> None:
    before = cluster.backup(name, "node-2")
    assert "not bound to the agent's node" in refusal(lambda: node_1.report(name, {"status": {"node": "node-1"}}))
    assert cluster.read(name) == before


@pytest.mark.parametrize("node", ["node-2", None])
def test_backup_cannot_be_handed_to_another_node(cluster: Cluster, node_1: Agent, name: str, node: str | None) -> None:
    """The other agent would begin a run that the controller never bound there."""
    before = cluster.backup(name, "node-1")
    assert "does not hand a VMBackup over" in refusal(lambda: node_1.report(name, {"status": {"node": node}}))
    assert cluster.read(name) == before


def test_status_cannot_be_taken_away_whole(cluster: Cluster, node_1: Agent, name: str) -> None:
    before = cluster.backup(name, "node-1")
    assert "does not hand a VMBackup over" in refusal(lambda: node_1.report(name, {"status": None}))
    assert cluster.read(name) == before


@pytest.mark.parametrize(
    "smuggled",
    [
        {"spec": {"cancel": True}},
        {"spec": {"location": "elsewhere"}},
        {"metadata": {"finalizers": ["evil.example/never"]}},
        {"metadata": {"labels": {"backup": "no"}}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]}},
    ],
    ids=dumped,
)
def test_spec_and_metadata_cannot_ride_along_with_a_status(
    cluster: Cluster, node_1: Agent, name: str, smuggled: dict[str, Any]
) -> None:
    before = cluster.backup(name, "node-1")
    node_1.report(name, COPYING | smuggled)
    after = cluster.read(name)
    assert after["spec"] == before["spec"]
    for volatile in ("managedFields", "resourceVersion"):
        before["metadata"].pop(volatile)
        after["metadata"].pop(volatile)
    assert after["metadata"] == before["metadata"]


def test_forged_name_of_the_node_in_the_request_is_worth_nothing(cluster: Cluster, node_1: Agent, name: str) -> None:
    """Neither the executor in the status nor the field manager make an agent one of another node."""
    before = cluster.backup(name, "node-2")
    status = {"executor": {"node": "node-1", "session": "forged"}, "node": "node-1"}
    assert refusal(lambda: node_1.report(name, {"status": status}))
    assert cluster.read(name) == before


def test_token_without_the_claim_writes_nothing(cluster: Cluster, nobody: Agent, name: str) -> None:
    before = cluster.backup(name, "node-1")
    deeds: list[Callable[[], object]] = [
        lambda: nobody.report(name, COPYING),
        lambda: nobody.make_host(name),
        lambda: nobody.make_host("node-1"),
        lambda: nobody.client.create(LEASES, lease_body(lease_of("node-1x"), SYSTEM, {"holderIdentity": "node-1x"})),
        lambda: nobody.client.create(EVENT.collection("default"), event_of(nobody, "node-1", f"{name}-n")),
    ]
    for deed in deeds:
        assert "names no node" in refusal(deed)
    assert cluster.read(name) == before


def test_backup_bound_to_the_empty_node_is_not_open_to_a_token_without_the_claim(
    cluster: Cluster, nobody: Agent, name: str
) -> None:
    cluster.backup(name)
    cluster.admin.patch(f"{VMBACKUP.path(name, 'default')}/status", {"status": {"node": ""}})
    assert refusal(lambda: nobody.report(name, COPYING))


def test_impersonated_claim_is_refused(cluster: Cluster, node_1: Agent, name: str) -> None:
    """Who could impersonate could also say which node he is: no agent may."""
    claim = NODE_CLAIM.replace("/", "%2F")
    headers = {"Impersonate-User": user("agent"), f"Impersonate-Extra-{claim}": "node-2"}
    node_1.client._api.default_headers.update(headers)
    try:
        with pytest.raises(Denied, match="impersonate"):
            node_1.resources.get(VMHOST, "node-2")
    finally:
        for header in headers:
            del node_1.client._api.default_headers[header]


def test_vmhost_of_another_node_cannot_be_made_or_written(cluster: Cluster, node_1: Agent) -> None:
    assert "not the one of the agent's node node-1" in refusal(lambda: node_1.make_host("node-3"))
    cluster.agent("node-2").resources.put_status(VMHOST, "node-2", VMHostStatus(session="two"))
    path = f"{VMHOST.path('node-2')}/status"
    assert "not the one of the agent's node" in refusal(lambda: node_1.client.patch(path, {"status": {"vms": []}}))
    assert cluster.admin.get(VMHOST.path("node-2"))["status"]["session"] == "two"


def test_vmhost_cannot_be_made_to_stay_for_ever(cluster: Cluster) -> None:
    agent = cluster.agent("node-4")
    assert "without finalizers" in refusal(lambda: agent.make_host("node-4", finalizers=["evil.example/never"]))
    owner = {"apiVersion": "v1", "kind": "Node", "name": "node-4", "uid": "u"}
    assert "without finalizers" in refusal(lambda: agent.make_host("node-4", ownerReferences=[owner]))


def test_agent_does_not_speak_for_other_nodes_about_a_location(node_1: Agent) -> None:
    seen = LocationSpace(node="node-2", location="nightly", ready=False, message="broken")
    status = VMHostStatus(session="s", locations=(seen,))
    assert "what its own node sees" in refusal(lambda: node_1.resources.put_status(VMHOST, "node-1", status))


@pytest.mark.parametrize("lease", ["vmbackup-agent-node-2", names.LEASE_CONTROLLER, "anything"])
def test_lease_of_somebody_else_cannot_be_made_or_taken(cluster: Cluster, node_1: Agent, lease: str) -> None:
    """With the controller's it would stop every backup; with another agent's it would hide that it is dead."""
    body = lease_body(lease, SYSTEM, {"holderIdentity": "node-1"})
    assert "not the one of the agent's node" in refusal(lambda: node_1.client.create(LEASES, body))
    cluster.admin.create(LEASES, lease_body(lease, SYSTEM, {"holderIdentity": "another"}))
    taken = {"spec": {"holderIdentity": "node-1"}}
    path = LEASE.path(lease, SYSTEM)
    assert "not the one of the agent's node" in refusal(lambda: node_1.client.patch(path, taken))
    assert cluster.admin.get(path)["spec"]["holderIdentity"] == "another"


def test_lease_of_the_controllers_namespace_only(node_1: Agent) -> None:
    body = lease_body(lease_of("node-1"), "kube-system", {"holderIdentity": "node-1"})
    with pytest.raises(Denied, match="cannot create resource"):
        node_1.client.create(LEASE.collection("kube-system"), body)


# -- with roles that allow everything -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mighty(cluster: Cluster, node_1: Agent) -> Iterator[Agent]:
    with cluster.wide_roles():
        yield node_1


@pytest.mark.parametrize("bound_to", ["node-1", "node-2", ""])
def test_wide_roles_do_not_open_spec_metadata_or_the_object(
    cluster: Cluster, mighty: Agent, name: str, bound_to: str
) -> None:
    before = cluster.backup(name, bound_to)
    path = VMBACKUP.path(name, "default")
    changes: list[dict[str, Any]] = [
        {"spec": {"cancel": True}},
        {"metadata": {"finalizers": [names.FINALIZER]}},
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
    ]
    deeds: list[Callable[[], object]] = [
        *(lambda change=change: mighty.client.patch(path, change) for change in changes),  # type: ignore[misc]
        lambda: mighty.client.delete(path, before["metadata"]["uid"]),
        lambda: mighty.client.call("DELETE", VMBACKUP.collection("default")),
        lambda: mighty.client.create(VMBACKUP.collection("default"), vmbackup(f"{name}-new")),
    ]
    for deed in deeds:
        assert "and nothing else of it" in refusal(deed)
    assert cluster.read(name) == before


def test_wide_roles_do_not_open_other_nodes(cluster: Cluster, mighty: Agent, name: str) -> None:
    before = cluster.backup(name, "node-2")
    assert refusal(lambda: mighty.report(name, COPYING))
    replaced = before | {"status": {"node": "node-1", "phase": "Copying"}}
    path = f"{VMBACKUP.path(name, 'default')}/status"
    assert refusal(lambda: mighty.client.call("PUT", path, replaced))
    assert cluster.read(name) == before


def test_wide_roles_do_not_open_hosts_leases_and_events(cluster: Cluster, mighty: Agent, name: str) -> None:
    cluster.agent("node-5").make_host("node-5")
    uid = cluster.admin.get(VMHOST.path("node-5"))["metadata"]["uid"]
    cluster.admin.create(LEASES, lease_body(lease_of(name), SYSTEM, {"holderIdentity": name}))
    cluster.admin.create(EVENT.collection("default"), event_of(mighty, "node-2", name))
    deeds: list[Callable[[], object]] = [
        lambda: mighty.client.delete(VMHOST.path("node-5"), uid),
        lambda: mighty.client.patch(VMHOST.path("node-5"), {"metadata": {"labels": {"a": "b"}}}),
        lambda: mighty.client.call("DELETE", LEASE.path(lease_of(name), SYSTEM)),
        lambda: mighty.client.call("DELETE", EVENT.path(f"{name}.node-2", "default")),
    ]
    for deed in deeds:
        assert refusal(deed)


def test_wide_roles_do_not_make_another_service_account_an_agent(cluster: Cluster, name: str) -> None:
    """The policy binds the agents and nobody else: the controller binds backups to nodes as before."""
    cluster.backup(name)
    bound = cluster.controller().patch(f"{VMBACKUP.path(name, 'default')}/status", {"status": {"node": "node-1"}})
    assert bound["status"]["node"] == "node-1"
