"""The namespace is the border of restores, too: neither sets nor VMs of others, whatever is named or forged."""

import json
from pathlib import Path

import pytest

from integration.system.restores import Restores
from integration.system.tenant import Tenant

SECRET = "secret"


@pytest.fixture
def guarded(tenant: Tenant, stranger: Tenant) -> Path:
    """A stranger's VM with a set in a location that both may use; returns the set."""
    stranger.vm(SECRET)
    stranger.back_up(SECRET, SECRET, verify="Checksum")
    stranger.until_succeeded(SECRET)
    both = {"spec": {"allowedNamespaces": {"names": [tenant.namespace, stranger.namespace]}}}
    stranger.kubectl("patch", "vmbl", stranger.location, "--type=merge", "-p", json.dumps(both))
    (published,) = stranger.sets()
    return published


def assert_nothing_was_taken(tenant: Tenant) -> None:
    images = tenant.stage.nodes["node-1"].host.images / tenant.namespace
    assert not list(images.glob("**/*.qcow2"))
    assert f"{tenant.namespace}_" not in tenant.virsh("list", "--all", "--name")


def reason(restores: Restores, name: str) -> str:
    status = restores.over(name)
    assert status["outcome"] == "Refused", status
    return str(restores.condition(status, "Succeeded")["reason"])


def test_a_backup_of_another_namespace_cannot_be_restored(
    tenant: Tenant, stranger: Tenant, restores: Restores, guarded: Path
) -> None:
    restores.ask("by-backup", {"newDomain": {"name": "back"}}, {"backup": SECRET})
    restores.ask("by-set", {"disks": {}}, {"set": {"location": stranger.location, "vm": SECRET}}, node="node-1")
    assert reason(restores, "by-backup") == "SetNotFound"
    assert reason(restores, "by-set") == "SetNotFound"
    assert_nothing_was_taken(tenant)
    assert sorted(path.name for path in guarded.iterdir()) == ["SHA256SUMS", "domain.xml", "manifest.json", "vda.qcow2"]


def test_forged_restore_reaches_no_set_of_another_namespace(
    tenant: Tenant, stranger: Tenant, restores: Restores, guarded: Path
) -> None:
    """With the status, which no role gives, he passes the controller by: the agent derives everything again."""
    tenant.stage.controller.kill()
    restores.ask("steal", {"disks": {}}, {"set": {"location": stranger.location, "vm": SECRET}})
    relative = str(guarded.relative_to(stranger.directory))
    forged = {"node": "node-1", "phase": "Assigned", "set": relative, "location": stranger.location, "vm": SECRET}
    patch = json.dumps({"status": forged})
    tenant.kubectl("patch", "vmr", "steal", "--subresource=status", "--type=merge", "-p", patch)
    assert reason(restores, "steal") == "SetNotFound"
    assert_nothing_was_taken(tenant)


def test_a_set_of_his_own_that_claims_to_be_another_vms_is_no_set(
    tenant: Tenant, stranger: Tenant, restores: Restores, guarded: Path
) -> None:
    """Directories are nothing but names: the manifest inside says whose set it is."""
    fake = stranger.directory / tenant.namespace / SECRET
    fake.mkdir(parents=True)
    (fake / guarded.name).symlink_to(guarded)
    copied = fake / f"{guarded.name}-copy"
    copied.mkdir()
    for path in guarded.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    restores.ask("by-name", {"disks": {}}, {"set": {"location": stranger.location, "vm": SECRET}}, node="node-1")
    assert reason(restores, "by-name") == "SetNotFound"
    assert_nothing_was_taken(tenant)


def test_in_place_reaches_no_vm_of_another_namespace(tenant: Tenant, stranger: Tenant, restores: Restores) -> None:
    """Both have a VM of this name: his own is gone, and the other's stays what it is."""
    domain = tenant.vm()
    tenant.back_up()
    tenant.until_succeeded()
    tenant.remove(domain)
    other = stranger.vm(running=False)
    (image,) = stranger.sources(other)
    before = Path(image).read_bytes()
    restores.ask("over", {"inPlace": {"overwrite": True}})
    assert reason(restores, "over") == "VMNotFound"
    assert Path(image).read_bytes() == before


def test_a_location_that_is_not_his_gives_no_set(tenant: Tenant, stranger: Tenant, restores: Restores) -> None:
    restores.ask("theirs", {"disks": {}}, {"set": {"location": stranger.location, "vm": "web"}})
    assert reason(restores, "theirs") == "LocationNotAllowed"
