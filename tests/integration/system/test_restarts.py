"""Agent and controller die and come back in the middle of a backup."""

import pytest

from integration.system.backup import eventually
from integration.system.programs import Stage
from integration.system.tenant import Tenant

METHODS = pytest.mark.parametrize("method", ["Push", "Snapshot"])
COPY_SECONDS = 5


def go_on(tenant: Tenant, method: str, domain: str) -> None:
    if method == "Push":
        tenant.release(domain)


@METHODS
def test_agent_killed_in_mid_copy_the_next_one_adopts(tenant: Tenant, method: str) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow(method, COPY_SECONDS)
    before = tenant.get()
    agent.kill()
    agent.start()
    after = tenant.until(lambda backup: backup.session != before.session)
    assert not after.over
    go_on(tenant, method, domain)
    backup = tenant.until_succeeded()
    assert backup.status["attempt"] == 1
    assert backup.status["startTime"] == before.status["startTime"]
    assert len(tenant.sets()) == 1
    assert tenant.is_home(domain)
    assert tenant.leftovers() == []


def test_push_goes_on_while_no_agent_runs(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow("Push")
    agent.kill()
    tenant.release(domain)
    eventually(lambda: "None" in tenant.virsh("domjobinfo", domain), "the job has ended")
    agent.start()
    assert tenant.until_succeeded().status["attempt"] == 1
    assert len(tenant.sets()) == 1


def test_agent_asked_to_end_leaves_a_push_running(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow("Push")
    assert agent.terminate() == 0
    assert tenant.job_runs(domain)
    agent.start()
    go_on(tenant, "Push", domain)
    assert tenant.until_succeeded().status["attempt"] == 1


def test_agent_asked_to_end_takes_the_vm_off_its_overlay(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow("Snapshot", COPY_SECONDS)
    assert agent.terminate() == 0
    assert tenant.is_home(domain)
    assert not tenant.get().over
    agent.start()
    backup = tenant.until_succeeded()
    assert backup.status["attempt"] == 2
    assert len(tenant.sets()) == 1
    assert tenant.leftovers() == []


@METHODS
def test_controller_killed_in_mid_copy(tenant: Tenant, method: str) -> None:
    controller = tenant.stage.controller
    domain = tenant.begin_slow(method, COPY_SECONDS)
    controller.kill()
    go_on(tenant, method, domain)
    tenant.until_succeeded()
    controller.start()
    tenant.until(lambda backup: "finalizers" not in backup.metadata)
    assert len(tenant.sets()) == 1


def test_backup_made_while_no_controller_runs(tenant: Tenant) -> None:
    tenant.vm()
    tenant.until_hosted("web")
    tenant.stage.controller.kill()
    tenant.back_up()
    tenant.stage.controller.start()
    tenant.until_succeeded()


def test_controller_asked_to_end(stage: Stage) -> None:
    assert stage.controller.terminate() == 0


def test_backup_assigned_while_the_agent_is_dead(tenant: Tenant) -> None:
    agent = tenant.stage.nodes["node-1"].agent
    tenant.vm()
    tenant.until_hosted("web")
    agent.kill()
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    agent.start()
    tenant.until_succeeded()


@METHODS
def test_node_that_lost_its_journal(tenant: Tenant, method: str) -> None:
    """Overlays and push targets carry the UID: the VM is brought home, then the backup is tried again."""
    node = tenant.stage.nodes["node-1"]
    domain = tenant.begin_slow(method, COPY_SECONDS)
    node.agent.kill()
    node.lose_state()
    node.agent.start()
    again = tenant.until(lambda backup: backup.status["attempt"] == 2 and tenant.has_begun(backup, domain))
    if not again.over:
        go_on(tenant, method, domain)
    tenant.until_succeeded()
    assert len(tenant.sets()) == 1
    assert tenant.is_home(domain)
    assert tenant.overlays() == []


def test_node_that_lost_its_journal_and_the_backup_was_deleted(tenant: Tenant) -> None:
    node = tenant.stage.nodes["node-1"]
    domain = tenant.begin_slow("Snapshot")
    node.agent.kill()
    node.lose_state()
    tenant.delete()
    node.agent.start()
    tenant.until_gone()
    assert tenant.is_home(domain), "the resource must not go before the VM is home"
    assert tenant.sets() == []


def test_libvirtd_killed_in_mid_push(tenant: Tenant) -> None:
    host = tenant.stage.nodes["node-1"].host
    domain = tenant.begin_slow("Push")
    host.kill_daemon()
    tenant.until(lambda backup: backup.reason == "HypervisorAway")
    host.start_daemon()
    tenant.release(domain)
    tenant.until_succeeded()
    assert len(tenant.sets()) == 1


def test_agent_started_before_libvirtd(tenant: Tenant) -> None:
    node = tenant.stage.nodes["node-1"]
    tenant.vm()
    tenant.until_hosted("web")
    node.agent.kill()
    node.host.kill_daemon()
    node.agent.start()
    tenant.back_up()
    waiting = tenant.until(lambda backup: backup.reason == "HypervisorAway")
    assert waiting.status["node"] == node.name
    assert "HypervisorAway" in tenant.kubectl("get", "vmhost", node.name, "-o", "yaml")
    node.host.start_daemon()
    tenant.until_succeeded()


def test_vm_destroyed_in_mid_push_is_backed_up_when_it_is_back(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Push")
    tenant.virsh("destroy", domain)
    tenant.until(lambda backup: backup.reason in ("Retrying", "SourceLost"))
    tenant.virsh("start", domain)
    backup = tenant.until(lambda backup: backup.status["attempt"] == 2 and tenant.has_begun(backup, domain))
    if not backup.over:
        go_on(tenant, "Push", domain)
    tenant.until_succeeded()
    assert len(tenant.sets()) == 1
    assert tenant.leftovers() == []
