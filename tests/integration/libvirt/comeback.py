"""A VM that was backed up and has changed since, and what came back of it."""

from pathlib import Path

from integration.libvirt.machines import VM
from integration.libvirt.restores import images
from integration.libvirt.rig import Rig
from testbed.guests import Disk
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.units import MIB

MARK = 16 * MIB  # where tests write what tells one content from another


def backed_up(rig: Rig, *, method: str = "Push", verify: str = "Checksum") -> VM:
    """Return a VM of two disks with a set; what it has written since is 0x77."""
    vm = rig.vm(Disk(rig.image("a", mib=64)), Disk(rig.image("b", "raw", mib=32), "vdb", "raw"))
    vm.writes("vda", MARK, MIB, 0x11)
    vm.writes("vdb", MARK, MIB, 0x22)
    run = rig.run(vm, method=method, verify=verify)
    assert run.outcome is Outcome.SUCCEEDED, run.failure
    vm.writes("vda", MARK, MIB, 0x77)
    vm.writes("vdb", MARK, MIB, 0x77)
    return vm


def of_restored(rig: Rig, run: RestoreRun) -> VM:
    return VM(rig.daemon, run.domain, run.domain_uuid, images(rig), {d.target: Path(d.file) for d in run.disks})


def holds(vm: VM, *, vda: int, vdb: int) -> bool:
    return vm.holds("vda", MARK, vda) and vm.holds("vdb", MARK, vdb)


def left(rig: Rig) -> list[str]:
    """Return what a restore must not leave: working files, protections of sets, kept images."""
    hidden = [path for top in (images(rig), rig.location, rig.disks) for path in top.rglob(".*")]
    return sorted(str(path) for path in [*hidden, *rig.disks.rglob("*.before-restore.*")])
