"""VMs that are not there, not yours, not running or not one."""

from integration.system.backup import Backup
from integration.system.tenant import Tenant
from vmbackup.api import names


def waits_for(reason: str) -> object:
    return lambda backup: backup.reason == reason and not backup.over


def assert_refused(backup: Backup, reason: str) -> None:
    """A refusal is told, is final for kstatus, and has no set."""
    assert (backup.phase, backup.outcome, backup.reason) == ("Done", "Refused", reason), backup.message
    assert backup.conditions["Stalled"]["status"] == "True"
    assert backup.conditions["Ready"]["status"] == "False"
    assert "Reconciling" not in backup.conditions
    assert "set" not in backup.status
    assert "attempt" not in backup.status or backup.status["attempt"] == 0


def test_unknown_vm_is_waited_for_then_refused(tenant: Tenant) -> None:
    tenant.back_up(vm="nobody")
    waiting = tenant.until(waits_for("WaitingForVM"))
    assert "nobody" in waiting.message
    refused = tenant.until_over()
    assert_refused(refused, "VMNotFound")
    assert "nobody" in refused.message
    assert tenant.until_event("VMNotFound")["type"] == "Warning"


def test_vm_made_while_it_is_waited_for(tenant: Tenant) -> None:
    tenant.back_up(vm="late")
    tenant.until(waits_for("WaitingForVM"))
    tenant.vm("late")
    tenant.until_succeeded()


def test_vm_of_another_namespace_looks_like_one_that_is_not_there(tenant: Tenant, stranger: Tenant) -> None:
    stranger.vm("secret")
    tenant.back_up("theirs", vm="secret")
    tenant.back_up("by-domain", vm=f"{stranger.namespace}_secret")
    tenant.back_up("nobodys", vm="unheard")
    theirs, by_domain, nobodys = (tenant.until_over(name) for name in ("theirs", "by-domain", "nobodys"))
    for backup in (theirs, by_domain, nobodys):
        assert_refused(backup, "VMNotFound")
    assert theirs.message.replace("secret", "unheard") == nobodys.message
    assert by_domain.message.replace(f"{stranger.namespace}_secret", "unheard") == nobodys.message
    assert tenant.sets() == []


def test_owner_in_the_metadata_beats_the_prefix_of_the_name(tenant: Tenant, stranger: Tenant) -> None:
    owner = f'<v:owner xmlns:v="{names.METADATA_NAMESPACE}" namespace="{tenant.namespace}"/>'
    domain = f"{stranger.namespace}_app"
    tenant.vm(domain=domain, metadata=owner)
    stranger.back_up("prefix", vm="app")
    tenant.back_up("owner", vm=domain)
    tenant.until_succeeded("owner")
    assert_refused(stranger.until_over("prefix"), "VMNotFound")


def test_plain_name_belongs_to_its_owner_element(tenant: Tenant) -> None:
    plain = f"plain-{tenant.namespace}"
    owner = f'<v:owner xmlns:v="{names.METADATA_NAMESPACE}" namespace="{tenant.namespace}"/>'
    tenant.vm(domain=plain, metadata=owner)
    tenant.back_up(vm=plain)
    tenant.until_succeeded()


def test_unclaimed_vm_is_nobodys(tenant: Tenant) -> None:
    plain = f"plain-{tenant.namespace}"
    tenant.vm(domain=plain)
    tenant.back_up(vm=plain)
    assert_refused(tenant.until_over(), "VMNotFound")


def test_stopped_vm_is_waited_for_until_it_starts(tenant: Tenant) -> None:
    domain = tenant.vm(running=False)
    tenant.back_up()
    waiting = tenant.until(waits_for("VMNotRunning"))
    assert "web" in waiting.message
    tenant.virsh("start", domain)
    tenant.until_succeeded()


def test_stopped_vm_that_never_starts(tenant: Tenant) -> None:
    tenant.vm(running=False)
    tenant.back_up(deadlineSeconds=4)
    tenant.until(waits_for("VMNotRunning"))
    refused = tenant.until_over()
    assert_refused(refused, "DeadlineExceeded")
    assert "not running" in refused.message


def test_vm_stopped_after_its_backup_was_assigned(tenant: Tenant) -> None:
    """The controller still believes that it runs: the agent waits, tells so once, and goes on when it is back."""
    node = tenant.stage.nodes["node-1"]
    domain = tenant.vm()
    tenant.until_hosted("web")
    node.agent.kill()
    tenant.virsh("destroy", domain)
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    node.agent.start()
    tenant.until(waits_for("VMNotRunning"))
    tenant.until_event("VMNotRunning")
    tenant.virsh("start", domain)
    tenant.until_succeeded()
    tenant.until_event("Completed")
    told = [event for event in tenant.events() if event["reason"] == "VMNotRunning"]
    assert len(told) == 1


def test_vm_that_vanishes_after_its_backup_was_assigned(tenant: Tenant) -> None:
    node = tenant.stage.nodes["node-1"]
    domain = tenant.vm()
    tenant.until_hosted("web")
    node.agent.kill()
    tenant.virsh("destroy", domain)
    tenant.virsh("undefine", domain)
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    node.agent.start()
    assert_refused(tenant.until_over(), "VMNotFound")
