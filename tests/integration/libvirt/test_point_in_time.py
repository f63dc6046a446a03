"""All disks of a set show one moment: the guest writes a number to disk A, then to B; so B <= A <= B + 1."""

from integration.libvirt.booted import assert_guest_writes, assert_one_moment, booted, numbers
from integration.libvirt.releases import everywhere
from integration.libvirt.rig import Rig
from vmbackup.api.vmbackup import Outcome

BACKUPS = 3


@everywhere
def test_every_set_shows_one_moment_of_a_writing_guest(rig: Rig, method: str) -> None:
    vm = booted(rig)
    assert_guest_writes(vm)
    before = vm.portrait()
    moments = []
    for number in range(BACKUPS):
        earliest = min(numbers(vm))
        quiesce = "Never" if number % 2 else "IfAvailable"
        run = rig.run(vm, method=method, quiesce=quiesce)
        assert run.outcome is Outcome.SUCCEEDED, run.failure
        moments.append(assert_one_moment(rig.location / run.set_path))
        assert earliest <= moments[-1] <= max(numbers(vm)), "the set shows another time than that of the backup"
        assert vm.portrait() == before
        assert_guest_writes(vm)
    assert moments == sorted(set(moments)), "a later set shows an earlier moment"
    assert rig.debris() == []
