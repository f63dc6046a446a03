"""What is mounted into a launcher pod outlives the agent's pod: the next agent takes it away."""

from collections.abc import Callable, Iterator

import pytest

from e2e.conftest import TENANT
from e2e.installation import AGENTS, Installation
from e2e.launchers import PODS, Launcher
from e2e.machines import HELD_BYTES, Backups
from integration.system.backup import eventually
from testbed.node import Node
from testbed.realcluster import RealCluster


@pytest.fixture(scope="module")
def installed(cluster: RealCluster, launchers: Callable[..., Launcher]) -> Iterator[Installation]:
    """The operator with KubeVirt switched on."""
    assert launchers
    installation = Installation(cluster)
    installation.helm_install("--set", "kubevirt.enabled=true")
    installation.make_location("local", TENANT)
    yield installation
    installation.helm_uninstall()


def test_agents_pod_killed_in_mid_push_and_the_next_one_goes_on(
    installed: Installation, backups: Backups, launchers: Callable[..., Launcher], node: Node
) -> None:
    launcher = launchers("survivor", session=True, data_bytes=HELD_BYTES)
    backups.ask_for("survivor", {"kind": "VirtualMachineInstance", "name": launcher.name}, maxBytesPerSecond="1Mi")
    backups.until_held("survivor", launcher)
    killed = installed.kill_agent(node.name)
    mounted = f"{PODS}/{launcher.pod_uid}/volumes/kubernetes.io~empty-dir/hotplug-disks/."
    assert mounted in node.host.run("cat", "/proc/mounts"), "the pod still writes there"
    eventually(lambda: installed.agent_runs(node.name) and installed.agent_pod(node.name) != killed, "a new agent", 120)
    backup = backups.until_succeeded("survivor", hastened=launcher)
    launcher.assert_identical(backups.read_set(backup, node))
    assert not installed.plane.kubectl("-n", AGENTS, "get", "pods", "--ignore-not-found", killed)
