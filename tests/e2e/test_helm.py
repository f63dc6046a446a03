"""`helm install` on a real node, and what users and operators do after it."""

import json

import pytest

from e2e.installation import AGENTS, CRDS, NAMESPACE, RELEASE, Installation
from e2e.machines import Backups, Machine, assert_identical, assert_one_point_in_time
from integration.system.backup import eventually
from testbed.node import Node


def test_install_brings_up_controller_and_agent(installed: Installation, node: Node) -> None:
    controllers, agents = installed.pods(NAMESPACE, "controller"), installed.pods(AGENTS, "agent")
    assert [pod["status"]["phase"] for pod in controllers] == ["Running", "Running"]
    assert [(pod["spec"]["nodeName"], pod["status"]["phase"]) for pod in agents] == [(node.name, "Running")]
    installed.until_ready("vmhost", node.name)


def test_image_gives_no_rights_by_itself(installed: Installation, node: Node) -> None:
    said = node.ctr("-n", "k8s.io", "containers", "list")
    assert "vmbackup-operator" in said
    user = installed.plane.kubectl("-n", NAMESPACE, "exec", f"deploy/{RELEASE}-controller", "--", "id", "-u")
    assert user.strip() == "65532"
    found = installed.plane.kubectl(
        "-n", NAMESPACE, "exec", f"deploy/{RELEASE}-controller", "--", "sh", "-c", "which gcc cc pip pip3 || true"
    )
    assert found.strip() == ""


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_idle_vm_is_copied_bit_for_bit(backups: Backups, database: Machine, node: Node, method: str) -> None:
    name = f"db-{method.lower()}"
    backups.ask(name, database, method=method, verify="Checksum")
    backup = backups.until_succeeded(name)
    assert backup.status["method"]["used"] == method
    assert_identical(backups.read_set(backup, node), database)


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_writing_vm_is_copied_at_one_moment(backups: Backups, web: Machine, node: Node, method: str) -> None:
    before, name = web.number(), f"web-{method.lower()}"
    backups.ask(name, web, method=method, quiesce="Required")
    backup = backups.until_succeeded(name)
    assert backup.conditions["Quiesced"]["status"] == "True"
    assert_one_point_in_time(backups.read_set(backup, node), web, before)


def test_helm_test_passes(installed: Installation) -> None:
    said = installed.helm("test", RELEASE, "--namespace", NAMESPACE)
    assert "Succeeded" in said


def test_agents_pod_killed_in_mid_push(installed: Installation, backups: Backups, large: Machine, node: Node) -> None:
    backups.ask("db-killed-push", large, method="Push", maxBytesPerSecond="1Mi")
    before = backups.until_held("db-killed-push", large)
    killed = installed.kill_agent(node.name)
    # QEMU goes on with the job meanwhile; the next agent finds it.
    eventually(lambda: backups.get("db-killed-push").session != before.session, "the next agent has taken it up")
    assert installed.agent_pod(node.name) != killed
    backup = backups.until_succeeded("db-killed-push", hastened=large)
    assert backup.status["attempt"] == 1
    assert_identical(backups.read_set(backup, node), large)


def test_agents_pod_killed_while_the_vm_is_on_an_overlay(
    installed: Installation, backups: Backups, database: Machine, node: Node
) -> None:
    backups.ask("db-killed-snapshot", database, method="Snapshot", maxBytesPerSecond="16Mi")
    before = backups.until_copying("db-killed-snapshot")
    assert database.now() != database.sources
    installed.kill_agent(node.name)
    backup = backups.until_succeeded("db-killed-snapshot")
    assert backup.session != before.session
    assert_identical(backups.read_set(backup, node), database)


def test_upgrade_in_mid_copy(installed: Installation, backups: Backups, database: Machine, node: Node) -> None:
    backups.ask("db-upgraded", database, method="Snapshot", maxBytesPerSecond="16Mi")
    before = backups.until_copying("db-upgraded")
    pod = installed.agent_pod(node.name)
    installed.helm_install("--set", "agent.stallSeconds=301", verb="upgrade")
    assert installed.agent_pod(node.name) != pod
    backup = backups.until_succeeded("db-upgraded")
    assert backup.session != before.session
    assert_identical(backups.read_set(backup, node), database)


def test_uninstall_keeps_kinds_backups_and_sets(
    installed: Installation, backups: Backups, database: Machine, node: Node
) -> None:
    backups.ask("db-kept", database)
    kept = backups.read_set(backups.until_succeeded("db-kept"), node)
    installed.helm_uninstall()
    try:
        gone = installed.plane.kubectl(
            "get", "deploy,ds,sa,clusterrole", "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
        )
        assert gone.split() == []
        names = installed.plane.kubectl("get", "crds", "-o", "name")
        assert {f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in CRDS} <= set(names.split())
        assert backups.get("db-kept").outcome == "Succeeded"
        assert_identical(kept, database)
    finally:
        installed.helm_install()
    eventually(lambda: installed.is_ready("vmhost", node.name), "the node is seen again")
    backups.ask("db-after", database)
    backups.until_succeeded("db-after")
    assert json.loads((kept.directory / "manifest.json").read_text()) == kept.manifest
