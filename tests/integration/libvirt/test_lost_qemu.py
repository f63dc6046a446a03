"""libvirt forgets a VM that runs: nothing may be decided from what it says of that VM."""

import os
import signal

import pytest

from integration.libvirt.machines import wait_until
from integration.libvirt.rig import Rig
from testbed.lost import make_status_unreadable
from vmbackup.errors import NotYet
from vmbackup.hypervisor.libvirtd import Libvirtd


def test_qemu_that_libvirt_has_lost_is_no_vm_that_is_off(rig: Rig) -> None:
    vm = rig.vm()
    hypervisor = Libvirtd(rig.daemon.uri)
    uuid = hypervisor.find(vm.name).uuid
    rig.daemon.kill_daemon()
    make_status_unreadable(rig.daemon, vm.name)
    rig.daemon.start_daemon()
    qemu = rig.daemon.qemu_pid(uuid)
    assert qemu is not None
    try:
        with pytest.raises(NotYet, match=f"{vm.name}.*process {qemu}"):
            hypervisor.find(vm.name)
    finally:
        os.kill(qemu, signal.SIGKILL)
    wait_until(lambda: rig.daemon.qemu_pid(uuid) is None, "QEMU is gone")
    assert hypervisor.find(vm.name).state == "off"
