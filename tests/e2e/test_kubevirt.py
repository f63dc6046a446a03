"""VirtualMachineInstances, whose libvirt and QEMU live in a launcher pod, backed up by the installed operator."""

from collections.abc import Callable, Iterator

import pytest

from e2e.conftest import TENANT
from e2e.installation import AGENTS, Installation
from e2e.launchers import PODS, Launcher
from e2e.machines import HELD_BYTES, Backups
from integration.system.backup import eventually
from testbed.node import Node
from testbed.realcluster import RealCluster

each_daemon = pytest.mark.parametrize("session", [False, True], ids=["system", "session"])


@pytest.fixture(scope="module")
def installed(cluster: RealCluster, launchers: Callable[..., Launcher]) -> Iterator[Installation]:
    """The operator with KubeVirt switched on; launcher pods and the kind VirtualMachineInstance are there before it."""
    assert launchers
    installation = Installation(cluster)
    installation.helm_install("--set", "kubevirt.enabled=true")
    installation.make_location("local", TENANT)
    yield installation
    installation.helm_uninstall()


def source(launcher: Launcher) -> dict[str, str]:
    return {"kind": "VirtualMachineInstance", "name": launcher.name}


@each_daemon
def test_instance_is_copied_bit_for_bit(
    backups: Backups, launchers: Callable[..., Launcher], node: Node, session: bool
) -> None:
    launcher = launchers(f"push-{'session' if session else 'system'}", session=session)
    backups.ask_for(launcher.name, source(launcher), verify="Checksum")
    backup = backups.until_succeeded(launcher.name)
    assert backup.status["method"]["used"] == "Push"
    launcher.assert_identical(backups.read_set(backup, node))


def test_snapshot_is_refused_with_the_reason(backups: Backups, launchers: Callable[..., Launcher]) -> None:
    launcher = launchers("snapshot", session=True)
    backups.ask_for("snapshot", source(launcher), method="Snapshot")
    eventually(lambda: backups.get("snapshot").over, "it is refused")
    backup = backups.get("snapshot")
    assert (backup.outcome, backup.reason) == ("Refused", "MethodUnsupported")
    assert backup.message
    launcher.assert_nothing_mounted()


@each_daemon
def test_launchers_daemon_killed_in_mid_push(
    backups: Backups, launchers: Callable[..., Launcher], node: Node, session: bool
) -> None:
    name = f"restart-{'session' if session else 'system'}"
    launcher = launchers(name, session=session, data_bytes=HELD_BYTES)
    backups.ask_for(name, source(launcher), maxBytesPerSecond="1Mi")
    backups.until_held(name, launcher)
    launcher.kill_daemon()
    launcher.assert_identical(backups.read_set(backups.until_succeeded(name, hastened=launcher), node))


def test_agents_pod_killed_in_mid_push_and_the_next_one_goes_on(
    installed: Installation, backups: Backups, launchers: Callable[..., Launcher], node: Node
) -> None:
    """What is mounted into a launcher pod outlives the agent's pod: the next agent takes it away."""
    launcher = launchers("survivor", session=True, data_bytes=HELD_BYTES)
    backups.ask_for("survivor", source(launcher), maxBytesPerSecond="1Mi")
    backups.until_held("survivor", launcher)
    killed = installed.kill_agent(node.name)
    mounted = f"{PODS}/{launcher.pod_uid}/volumes/kubernetes.io~empty-dir/hotplug-disks/."
    assert mounted in node.host.run("cat", "/proc/mounts"), "the pod still writes there"
    eventually(lambda: installed.running_agent(node.name) not in (None, killed), "a new agent", 120)
    backup = backups.until_succeeded("survivor", hastened=launcher)
    launcher.assert_identical(backups.read_set(backup, node))
    assert not installed.plane.kubectl("-n", AGENTS, "get", "pods", "--ignore-not-found", killed)


def test_pod_deleted_in_mid_push(
    installed: Installation, backups: Backups, launchers: Callable[..., Launcher], node: Node
) -> None:
    launcher = launchers("evicted", session=True, data_bytes=HELD_BYTES)
    backups.ask_for("evicted", source(launcher), maxBytesPerSecond="1Mi")
    backups.until_held("evicted", launcher)
    launcher.delete_pod()
    launcher.set_status({"phase": "Failed", "nodeName": node.name, "activePods": {}})
    eventually(lambda: backups.get("evicted").over, "it is over", 120)
    backup = backups.get("evicted")
    assert backup.outcome in ("Failed", "Refused"), backup.status
    assert backup.message
    assert launcher.pod_uid not in node.host.run("cat", "/proc/mounts")
    kept = installed.plane.kubectl("-n", TENANT, "get", "pods", "--ignore-not-found", launcher.pod)
    assert kept == "", "something of the pod is still in use"
