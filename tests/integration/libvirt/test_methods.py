"""Each method on each release, from the request to the set; the VM is afterwards as it was."""

import pytest

from integration.libvirt.machines import same_content
from integration.libvirt.releases import everywhere
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_published
from testbed.guests import Disk
from vmbackup.api.vmbackup import Method, Outcome
from vmbackup.errors import Refused


@everywhere
def test_two_disks_are_copied_and_the_vm_is_as_before(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.image("a")), Disk(rig.image("b", "raw"), "vdb", "raw"))
    before = vm.portrait()
    run = rig.run(vm, method=method)
    assert (run.outcome, run.failure, run.attempt) == (Outcome.SUCCEEDED, None, 1)
    assert (run.method, run.method_reason) == (method, "asked for")
    assert vm.portrait() == before
    published = assert_published(rig, run)
    for disk in run.disks:
        assert same_content(published / disk.image, vm.paths[disk.target])


@pytest.mark.parametrize(
    ("release", "method", "reason"),
    [
        ("7.0", Method.SNAPSHOT, "libvirt 7.0.0 cannot push a full backup, 7.2.0 can"),
        ("9.0", Method.PUSH, "libvirt 9.0.0 supports full push"),
        ("11.3", Method.PUSH, "libvirt 11.3.0 supports full push"),
    ],
)
def test_auto_takes_the_best_that_the_daemon_can(rig: Rig, method: Method, reason: str) -> None:
    vm = rig.vm()
    run = rig.run(vm, method="Auto")
    assert (run.outcome, run.method, run.method_reason) == (Outcome.SUCCEEDED, method, reason)
    assert_published(rig, run)


@pytest.mark.parametrize("release", ["7.0"])
def test_push_on_a_daemon_that_cannot_is_refused_before_anything_is_touched(rig: Rig) -> None:
    vm = rig.vm()
    before = vm.portrait()
    with pytest.raises(Refused) as refusal:
        rig.run(vm, method="Push")
    assert refusal.value.reason == "MethodUnsupported"
    assert "libvirt 7.0.0 cannot push a full backup" in refusal.value.message
    assert "Use method Auto or Snapshot" in refusal.value.message
    assert vm.portrait() == before
    assert list(rig.location.iterdir()) == []
