"""A guest that really boots, writes rising numbers to its disks and answers its agent."""

from pathlib import Path

from integration.libvirt.machines import VM, wait_until
from integration.libvirt.rig import Rig
from testbed.boot import boot_files
from testbed.guests import Boot, Disk, Options, wait_until_ready
from testbed.images import sequence_numbers

REST_MICROSECONDS = 2000  # between two numbers: leaves the machine to others


def booted(rig: Rig, *, agent: bool = False) -> VM:
    """Return a VM whose guest is up: its numbers on vdb (A) and vdc (B), a file system on vda."""
    kernel, initramfs = boot_files(rig.place)
    log = rig.disks / "serial.log"
    arguments = f"testbed.ext4=vda testbed.sequence=vdb,vdc,{REST_MICROSECONDS}"
    boot = Boot(kernel, initramfs, log, arguments)
    disks = [
        Disk(rig.image("system", mib=64, data_mib=0), "vda"),
        Disk(rig.image("a", mib=32, data_mib=4), "vdb"),
        Disk(rig.image("b", "raw", mib=32, data_mib=4), "vdc", "raw"),
    ]
    vm = rig.vm(*disks, options=Options(memory_mib=160, agent=agent, boot=boot))
    wait_until_ready(log)
    return vm


def numbers(vm: VM) -> tuple[int, int]:
    """Return the numbers on the disks of the running guest; not of one moment."""
    return sequence_numbers(vm.paths["vdb"], vm.paths["vdc"])


def assert_guest_writes(vm: VM) -> None:
    """See that the guest is not frozen: its numbers rise."""
    before = numbers(vm)
    wait_until(lambda: min(numbers(vm)) > max(before), "the guest writes again")


def assert_one_moment(published: Path) -> int:
    """See that the set shows one point in time, and return its number."""
    a, b = (next(published.glob(f"{target}.*")) for target in ("vdb", "vdc"))
    first, second = sequence_numbers(a, b)
    assert second <= first <= second + 1, f"disk A shows {first}, disk B {second}: not one moment"
    return first
