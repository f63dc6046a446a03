"""The user changes their mind: cancel, delete, and what happens to location and deadline meanwhile."""

import pytest

from integration.system.backup import eventually
from integration.system.tenant import Tenant

METHODS = pytest.mark.parametrize("method", ["Push", "Snapshot"])


def assert_home_and_nothing_left(tenant: Tenant, domain: str) -> None:
    assert tenant.is_home(domain)
    assert tenant.sets() == []
    assert tenant.leftovers() == []


@METHODS
def test_cancelled_in_mid_copy(tenant: Tenant, method: str) -> None:
    domain = tenant.begin_slow(method)
    tenant.cancel()
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Cancelled", "Cancelled")
    assert backup.conditions["Stalled"]["status"] == "True"
    assert "set" not in backup.status
    assert_home_and_nothing_left(tenant, domain)
    tenant.until_event("Cancelled")


@METHODS
def test_deleted_in_mid_copy(tenant: Tenant, method: str) -> None:
    domain = tenant.begin_slow(method)
    tenant.delete()
    assert tenant.exists(), "the finalizer must keep it until the VM is home"
    tenant.until_gone()
    assert_home_and_nothing_left(tenant, domain)


@METHODS
def test_resource_torn_out_in_mid_copy(tenant: Tenant, method: str) -> None:
    """Somebody removed the finalizer by force: the VM goes home all the same."""
    domain = tenant.begin_slow(method)
    tenant.kubectl("patch", "vmb", "backup", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    tenant.delete()
    tenant.until_gone()
    tenant.until_home(domain)
    eventually(lambda: not tenant.leftovers(), "nothing is left")
    assert tenant.sets() == []


@METHODS
def test_deleted_while_the_agent_is_dead(tenant: Tenant, method: str) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow(method)
    agent.kill()
    tenant.delete()
    assert tenant.exists()
    agent.start()
    tenant.until_gone()
    assert_home_and_nothing_left(tenant, domain)


@METHODS
def test_cancelled_while_the_agent_is_dead(tenant: Tenant, method: str) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow(method)
    agent.kill()
    tenant.cancel()
    agent.start()
    assert tenant.until_over().outcome == "Cancelled"
    assert_home_and_nothing_left(tenant, domain)


@METHODS
def test_deadline_in_mid_copy(tenant: Tenant, method: str) -> None:
    domain = tenant.begin_slow(method, deadlineSeconds=4)
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Failed", "DeadlineExceeded")
    assert_home_and_nothing_left(tenant, domain)


def test_deadline_passes_while_the_agent_is_away(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow("Push", deadlineSeconds=3)
    agent.kill()
    tenant.until_older_than(3)
    agent.start()
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Failed", "DeadlineExceeded")
    assert_home_and_nothing_left(tenant, domain)


def test_cancelled_before_it_is_assigned(tenant: Tenant) -> None:
    tenant.back_up(vm="nobody")
    tenant.cancel()
    backup = tenant.until_over()
    assert (backup.outcome, backup.reason) == ("Cancelled", "Cancelled")


def test_deleted_before_it_is_assigned(tenant: Tenant) -> None:
    tenant.back_up(vm="nobody")
    tenant.delete()
    tenant.until_gone()


@pytest.mark.parametrize("wish", ["cancel", "delete"])
def test_withdrawn_after_it_was_assigned_before_the_agent_looked(tenant: Tenant, wish: str) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.vm()
    tenant.until_hosted("web")
    agent.kill()
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    getattr(tenant, wish)()
    agent.start()
    if wish == "cancel":
        assert tenant.until_over().outcome == "Cancelled"
    else:
        tenant.until_gone()
    assert_home_and_nothing_left(tenant, domain)


def test_deleted_and_made_again_under_the_same_name(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Push")
    old = tenant.get().metadata["uid"]
    tenant.delete()
    tenant.until_gone()
    tenant.back_up()
    backup = tenant.until_succeeded()
    assert backup.metadata["uid"] != old
    assert len(tenant.sets()) == 1
    assert tenant.is_home(domain)


@METHODS
def test_location_deleted_in_mid_copy(tenant: Tenant, method: str) -> None:
    domain = tenant.begin_slow(method, seconds=4)
    tenant.kubectl("delete", "vmbl", tenant.location)
    if method == "Push":
        tenant.release(domain)
    tenant.until_succeeded()
    assert len(tenant.sets()) == 1
    assert tenant.is_home(domain)


def test_set_published_before_the_cancel_stays(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up()
    tenant.until_succeeded()
    tenant.cancel()
    tenant.kubectl("wait", "vmb/backup", "--for=jsonpath={.spec.cancel}=true", "--timeout=10s")
    assert tenant.get().outcome == "Succeeded"
    assert len(tenant.sets()) == 1
