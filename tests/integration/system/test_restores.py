"""What a user sees of a restore: through kubectl, controller and agent, on real libvirt."""

import json

import pytest

from integration.system.backup import Body
from integration.system.machines import remove_domain
from integration.system.restores import Restores
from integration.system.tenant import Tenant
from vmbackup.api import names


def backed_up(tenant: Tenant) -> str:
    domain = tenant.vm(disks=("vda", "vdb"))
    tenant.back_up(verify="Checksum")
    tenant.until_succeeded()
    return domain


def test_a_second_vm_from_a_backup(tenant: Tenant, restores: Restores) -> None:
    backed_up(tenant)
    restores.ask("again", {"newDomain": {"name": "back", "start": True}})
    status = restores.over("again")
    assert status["outcome"] == "Succeeded", status
    assert status["domain"] == f"{tenant.namespace}_back"
    assert restores.state(status["domain"]) == "running"
    assert restores.condition(status, "Verified")["reason"] == "Checksummed"
    assert {disk["state"] for disk in status["disks"]} == {"Restored"}
    tenant.until_hosted("back")
    columns = tenant.kubectl("get", "vmr", "again", "-o", "wide")
    assert all(word in columns for word in ("NewDomain", "Succeeded", "100%", "web", "node-1", "Completed"))


def test_an_instant_vm_when_vm_and_vmbackup_are_lost(tenant: Tenant, restores: Restores) -> None:
    domain = backed_up(tenant)
    tenant.kubectl("delete", "vmb", "backup")
    tenant.remove(domain)
    source = {"set": {"location": tenant.location, "vm": "web"}}
    restores.ask("now", {"instant": {"name": "web"}}, source)
    status = restores.over("now")
    assert status["outcome"] == "Succeeded", status
    assert status["runningMilliseconds"] < 60_000
    assert restores.state(domain) == "running"
    assert len(tenant.virsh("domblklist", domain).split()) > 4
    (published,) = tenant.sets()
    assert [path.name for path in published.iterdir() if path.name.startswith(".")] == []
    remove_domain(tenant.stage.nodes["node-1"], domain)


def test_in_place_is_refused_while_the_vm_runs_and_done_when_it_is_off(tenant: Tenant, restores: Restores) -> None:
    domain = backed_up(tenant)
    restores.ask("early", {"inPlace": {"overwrite": True}})
    refused = restores.over("early")
    assert refused["outcome"] == "Refused"
    assert restores.condition(refused, "Succeeded")["reason"] == "VMRunning"
    assert restores.state(domain) == "running"
    tenant.virsh("destroy", domain)
    restores.ask("later", {"inPlace": {"overwrite": True, "start": True}})
    status = restores.over("later")
    assert status["outcome"] == "Succeeded", status
    assert tenant.is_home(domain)


def test_a_set_of_another_namespace_cannot_be_reached(tenant: Tenant, restores: Restores) -> None:
    backed_up(tenant)
    stranger = f"{tenant.namespace}-stranger"
    tenant.stage.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": stranger}})
    patch = json.dumps({"spec": {"allowedNamespaces": {"names": [tenant.namespace, stranger]}}})
    tenant.kubectl("patch", "vmbl", tenant.location, "--type=merge", "-p", patch)
    spec = {
        "source": {"set": {"location": tenant.location, "vm": "web"}},
        "target": {"disks": {}},
    }
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "VMRestore",
        "metadata": {"name": "steal", "namespace": stranger},
        "spec": spec,
    }
    cluster = tenant.stage.cluster
    cluster.kubectl("apply", "-f", "-", input=json.dumps(body))
    cluster.kubectl(
        "--namespace", stranger, "wait", "--for=jsonpath={.status.phase}=Done", "vmr/steal", "--timeout=60s"
    )
    status = json.loads(cluster.kubectl("--namespace", stranger, "get", "vmr", "steal", "-o", "json"))["status"]
    assert (status["outcome"], restores.condition(status, "Succeeded")["reason"]) == ("Refused", "SetNotFound")
    cluster.kubectl("delete", "namespace", stranger, "--wait=false")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "Name one target"),
        ({"disks": {}, "newDomain": {"name": "back"}}, "Name one target"),
        ({"inPlace": {"overwrite": False}}, "overwrite: true"),
        ({"newDomain": {"name": "../evil"}}, "letters, digits"),
    ],
)
def test_a_bad_target_is_refused_by_the_api_server(
    tenant: Tenant, restores: Restores, target: Body, words: str
) -> None:
    with pytest.raises(Exception, match=r"[Ii]nvalid") as refusal:
        restores.ask("bad", target)
    assert words in str(refusal.value)
    assert tenant.kubectl("get", "vmr", "-o", "name") == ""


def test_agent_killed_in_mid_restore_goes_on(tenant: Tenant, restores: Restores) -> None:
    backed_up(tenant)
    restores.ask("slow", {"newDomain": {"name": "back", "start": True}}, maxBytesPerSecond="256Ki")
    restores.until("slow", lambda status: status.get("phase") == "Copying")
    node = tenant.stage.nodes["node-1"]
    node.agent.kill()
    node.agent.start()
    status = restores.over("slow")
    assert status["outcome"] == "Succeeded", status
    assert restores.state(status["domain"]) == "running"


def test_a_spec_cannot_be_changed_but_cancelled(tenant: Tenant, restores: Restores) -> None:
    backed_up(tenant)
    restores.ask("slow", {"disks": {}}, maxBytesPerSecond="128Ki")
    with pytest.raises(Exception, match="cannot be changed"):
        tenant.kubectl("patch", "vmr", "slow", "--type=merge", "-p", '{"spec":{"verify":"None"}}')
    tenant.kubectl("patch", "vmr", "slow", "--type=merge", "-p", '{"spec":{"cancel":true}}')
    status = restores.over("slow")
    assert status["outcome"] == "Cancelled"
