"""libvirt forgets a VM that runs: nothing may be decided from what it says of that VM."""

import os
import signal

import pytest

from integration.libvirt.machines import wait_until
from integration.libvirt.rig import Rig
from vmbackup.errors import NotYet
from vmbackup.hypervisor.libvirtd import Libvirtd


def test_qemu_that_libvirt_has_lost_is_no_vm_that_is_off(rig: Rig) -> None:
    vm = rig.vm()
    hypervisor = Libvirtd(rig.daemon.uri)
    uuid = hypervisor.find(vm.name).uuid
    rig.daemon.kill_daemon()
    # What libvirt 9.0 writes when it is killed in the middle of a pivot; at its next start it cannot read that.
    status = rig.daemon.directory / "run/qemu" / f"{vm.name}.xml"
    text = status.read_text()
    mirror = "<mirror type='file' job=''><format type='qcow2'/><source/></mirror><target dev='vda'"
    assert "<target dev='vda'" in text
    status.write_text(text.replace("<target dev='vda'", mirror))
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
