"""What Prometheus reads of the running product, and what its logs say."""

import json
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

import pytest
import yaml

from integration.system.backup import Backup
from integration.system.programs import SYSTEM_NAMESPACE, Program
from integration.system.scrape import Scrape, address, shows
from integration.system.tenant import Tenant

NODE = {"node": "node-1"}
RSS_BYTES_MAX = 110 << 20


def ended_at(backup: Backup) -> float:
    return datetime.fromisoformat(backup.status["completionTime"]).timestamp()


def until_counted(tenant: Tenant, result: str, method: str) -> None:
    labels = {"result": result, "method": method, "namespace": tenant.namespace}
    shows(tenant.stage.controller, "vmbackup_backups_total", 1, **labels)


def agent_of(tenant: Tenant) -> Program:
    return tenant.stage.nodes["node-1"].agent


def restart(program: Program) -> None:
    program.kill()
    program.start()


def test_backup_shows_in_the_metrics_of_both(tenant: Tenant) -> None:
    tenant.vm()
    before = Scrape(agent_of(tenant)).total("vmbackup_overlay_seconds_count", **NODE)
    tenant.back_up(method="Snapshot")
    backup = tenant.until_succeeded()
    until_counted(tenant, "Succeeded", "Snapshot")
    vm = {"namespace": tenant.namespace, "vm": "web"}
    controller = Scrape(tenant.stage.controller)
    assert controller.value("vmbackup_last_success_timestamp_seconds", **vm) == ended_at(backup)
    stored = controller.value("vmbackup_backup_bytes_total", method="Snapshot", namespace=tenant.namespace)
    assert stored == backup.status["storedBytes"]
    assert controller.total("vmbackup_backup_duration_seconds_count", result="Succeeded", method="Snapshot") >= 1
    assert controller.value("vmbackup_queue_depth") == 0
    assert controller.value("vmbackup_leader") == 1
    assert (controller.value("vmbackup_agent_heartbeat_timestamp_seconds", **NODE) or 0) > 0
    assert controller.value("vmbackup_watch_age_seconds", resource="vmbackups") is not None
    agent = Scrape(agent_of(tenant))
    assert agent.total("vmbackup_overlay_seconds_count", **NODE) == before + 1
    assert agent.total("vmbackup_libvirt_call_seconds_count", call="TakeSnapshot") >= 1
    assert agent.value("vmbackup_merge_debts", **NODE) == 0
    shows(agent_of(tenant), "vmbackup_backups_running", 0, **NODE)


def test_restarted_controller_shows_the_last_success_and_counts_nothing_again(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up("first")
    first = tenant.until_succeeded("first")
    until_counted(tenant, "Succeeded", "Push")
    restart(tenant.stage.controller)
    vm = {"namespace": tenant.namespace, "vm": "web"}
    shows(tenant.stage.controller, "vmbackup_last_success_timestamp_seconds", ended_at(first), **vm)
    tenant.back_up("second", vm="nosuch")
    tenant.until_over("second")
    until_counted(tenant, "Refused", "None")
    after = Scrape(tenant.stage.controller)
    assert after.total("vmbackup_backups_total", result="Succeeded", namespace=tenant.namespace) == 0


def test_end_that_came_while_no_controller_ran_is_counted_by_the_next(tenant: Tenant) -> None:
    domain = tenant.begin_slow("Push")
    tenant.stage.controller.kill()
    tenant.release(domain)
    tenant.until_succeeded()
    tenant.stage.controller.start()
    until_counted(tenant, "Succeeded", "Push")


def test_debt_is_shown_by_the_agent_that_was_restarted(tenant: Tenant) -> None:
    tenant.begin_slow("Snapshot", seconds=40)
    shows(agent_of(tenant), "vmbackup_merge_debts", 1, **NODE)
    assert Scrape(agent_of(tenant)).value("vmbackup_backups_running", **NODE) == 1
    restart(agent_of(tenant))
    shows(agent_of(tenant), "vmbackup_merge_debts", 1, **NODE)
    assert (Scrape(agent_of(tenant)).value("vmbackup_merge_debt_oldest_seconds", **NODE) or 0) > 0
    tenant.cancel()
    tenant.until_over()
    shows(agent_of(tenant), "vmbackup_merge_debts", 0, **NODE)
    until_counted(tenant, "Cancelled", "Snapshot")


def test_samples_of_a_vm_that_is_gone_vanish(tenant: Tenant) -> None:
    domain = tenant.vm()
    tenant.back_up()
    backup = tenant.until_succeeded()
    vm = {"namespace": tenant.namespace, "vm": "web"}
    shows(tenant.stage.controller, "vmbackup_last_success_timestamp_seconds", ended_at(backup), **vm)
    tenant.remove(domain)
    shows(tenant.stage.controller, "vmbackup_last_success_timestamp_seconds", None, **vm)


@pytest.mark.parametrize("path", ["/", "/healthz", "/debug"])
def test_page_of_metrics_shows_nothing_else(tenant: Tenant, path: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for program in (tenant.stage.controller, agent_of(tenant)):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            opener.open(f"{address(program)}{path}", timeout=10)


def test_agent_that_shows_metrics_is_small(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up()
    tenant.until_succeeded()
    for _ in range(20):
        scrape = Scrape(agent_of(tenant))
    assert 0 < (scrape.value("process_resident_memory_bytes") or 0) <= RSS_BYTES_MAX


# -- logs -----------------------------------------------------------------------------------------------------------


def lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.log.read_text().splitlines()]


def test_lines_about_a_backup_say_so(tenant: Tenant) -> None:
    tenant.vm()
    tenant.back_up(method="Snapshot")
    backup = tenant.until_succeeded()
    until_counted(tenant, "Succeeded", "Snapshot")
    key, uid = f"{tenant.namespace}/backup", backup.metadata["uid"]
    of_agent = [line for line in lines(agent_of(tenant)) if key in line["message"] or line.get("uid") == uid]
    who = {"backup": key, "uid": uid, "vm": "web", "node": "node-1"}
    assert [line for line in of_agent if not who.items() <= line.items()] == []
    assert {"Snapshotting", "Copying", "Committing", "Pivoting", "Done"} <= {line["phase"] for line in of_agent}
    of_controller = [line for line in lines(tenant.stage.controller) if key in line["message"]]
    assert of_controller
    mine = {"backup": key, "uid": uid, "vm": "web"}
    assert [line for line in of_controller if not mine.items() <= line.items() or "phase" not in line] == []


def test_no_log_tells_a_token(tenant: Tenant) -> None:
    programs = {"controller": tenant.stage.controller, "agent.agent-node-1": agent_of(tenant)}
    for account, program in programs.items():
        kubeconfig = tenant.stage.cluster.directory / f"{SYSTEM_NAMESPACE}.{account}.kubeconfig"
        token = str(yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"])
        assert len(token) > 100
        assert token not in program.log.read_text()
        assert "Bearer " not in program.log.read_text()
