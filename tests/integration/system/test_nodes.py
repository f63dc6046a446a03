"""Two nodes, and two agents where there should be one."""

import json

from integration.system.backup import eventually
from integration.system.programs import Node
from integration.system.tenant import Tenant
from integration.system.test_unknown_vm import assert_refused


def test_each_agent_works_on_its_own_node_only(tenant: Tenant, second_node: Node) -> None:
    first = tenant.vm("one")
    second = tenant.vm("two", second_node)
    tenant.back_up("of-one", vm="one")
    tenant.back_up("of-two", vm="two", method="Snapshot")
    one, two = tenant.until_succeeded("of-one"), tenant.until_succeeded("of-two")
    assert (one.status["node"], two.status["node"]) == ("node-1", "node-2")
    assert one.session != two.session
    assert one.metadata["uid"] not in second_node.agent.log.read_text()
    assert "of-one" not in second_node.agent.log.read_text()
    assert "of-two" not in tenant.stage.nodes["node-1"].agent.log.read_text()
    assert tenant.is_home(first)
    assert tenant.is_home(second, second_node)


def test_vm_of_equal_name_on_two_nodes(tenant: Tenant, second_node: Node) -> None:
    tenant.vm()
    tenant.until_hosted("web")
    tenant.vm(node=second_node)
    tenant.until_hosted("web", second_node)
    tenant.back_up("which")
    refused = tenant.until_over("which")
    assert_refused(refused, "VMAmbiguous")
    assert "node-1, node-2" in refused.message
    assert "source.node" in refused.message
    tenant.back_up("that-one", source={"name": "web", "node": "node-2"})
    assert tenant.until_succeeded("that-one").status["node"] == "node-2"


def test_agent_silent_in_mid_copy_nothing_is_bound_anew(tenant: Tenant, second_node: Node) -> None:
    """The agent's Lease runs out. It is shortened here as its agent would have written it with a shorter life."""
    node = tenant.stage.nodes["node-1"]
    domain = tenant.begin_slow("Push")
    before = tenant.get()
    node.agent.kill()
    tenant.kubectl("patch", *tenant.stage.lease_of(node), "--type=merge", "-p", '{"spec":{"leaseDurationSeconds":1}}')
    lost = tenant.until(lambda backup: backup.reason == "NodeLost")
    assert not lost.over
    assert lost.status["node"] == "node-1"
    assert "node-1" in lost.message
    assert tenant.until_event("NodeLost")["type"] == "Warning"
    tenant.until_location(tenant.location, "True")  # the other node still writes there
    node.agent.start()
    tenant.until(lambda backup: backup.session != before.session and backup.reason == "Running")
    tenant.release(domain)
    assert tenant.until_succeeded().status["attempt"] == 1


def test_backup_of_a_vm_whose_agent_is_silent_waits_for_it(tenant: Tenant) -> None:
    node = tenant.stage.nodes["node-1"]
    tenant.vm()
    tenant.until_hosted("web")
    node.agent.kill()
    tenant.kubectl("patch", *tenant.stage.lease_of(node), "--type=merge", "-p", '{"spec":{"leaseDurationSeconds":1}}')
    eventually(lambda: "agent is silent" in tenant.kubectl("get", "vmbl", tenant.location, "-o", "yaml"), "it is known")
    tenant.back_up()
    waiting = tenant.until(lambda backup: backup.reason == "NodeLost")
    assert "node" not in waiting.status
    node.agent.start()
    tenant.until_succeeded()


def test_two_agents_of_one_node_make_one_set(tenant: Tenant) -> None:
    node = tenant.stage.nodes["node-1"]
    domain = tenant.begin_slow("Push")
    session = tenant.get().session
    second = node.new_agent("second-agent")
    second.start()
    try:
        eventually(lambda: "stands by" in second.last_words(), "the second agent stands by")
        tenant.release(domain)
        backup = tenant.until_succeeded()
        assert backup.session == session
        tenant.back_up("another", method="Snapshot")
        assert tenant.until_succeeded("another").session == session
        assert len(tenant.sets()) == 2
        node.agent.kill()
        tenant.back_up("after")
        assert tenant.until_succeeded("after").session != session
        assert len(tenant.sets()) == 3
    finally:
        second.kill()
    assert tenant.leftovers() == []


def test_second_agent_that_stands_by_ends_when_asked(tenant: Tenant) -> None:
    second = tenant.stage.nodes["node-1"].new_agent("third-agent")
    second.start()
    eventually(lambda: "stands by" in second.last_words(), "the second agent stands by")
    assert second.terminate() == 0


def test_vmhost_tells_what_its_node_can_do(tenant: Tenant) -> None:
    tenant.vm("one")
    tenant.vm("two", running=False)
    tenant.until_hosted("two")
    tenant.until_hosted("one")
    status = json.loads(tenant.kubectl("get", "vmhost", "node-1", "-o", "json"))["status"]
    running = {vm["name"]: vm["running"] for vm in status["vms"] if vm["namespace"] == tenant.namespace}
    assert running == {"one": True, "two": False}
    assert {method["method"]: method["supported"] for method in status["methods"]} == {"Push": True, "Snapshot": True}
    assert status["libvirtVersion"].startswith("9.0")


def test_location_does_not_flap_when_an_agent_is_restarted(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    before = tenant.until_location(tenant.location, "True")
    agent.kill()
    agent.start()
    tenant.vm()
    tenant.until_hosted("web")
    assert tenant.until_location(tenant.location, "True")["lastTransitionTime"] == before["lastTransitionTime"]
    events = json.loads(tenant.kubectl("get", "events.events.k8s.io", "-n", "default", "-o", "json"))["items"]
    told = [event["reason"] for event in events if event["regarding"]["name"] == tenant.location]
    assert set(told) <= {"Ready"}
