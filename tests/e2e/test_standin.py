"""The stand-in for virt-launcher is what the tests of KubeVirt-style VMs take it for."""

from collections.abc import Callable

import pytest

from e2e.launchers import Launcher
from testbed import proof


@pytest.mark.parametrize("session", [False, True], ids=["system", "session"])
def test_launcher_runs_a_vm(launchers: Callable[..., Launcher], session: bool) -> None:
    launcher = launchers(f"standin-{'session' if session else 'system'}", session=session)
    assert proof.sources(launcher.uri, launcher.domain) == {"vda": "/run/kubevirt-private/vmi-disks/root/disk.img"}
    user = launcher.exec("sh", "-c", "stat -c %u /proc/$(pidof qemu-system-x86_64)")
    assert user.strip() == ("107" if session else "0")
    launcher.assert_nothing_mounted()
