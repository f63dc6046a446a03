"""Cancel, deadline, overlay and speed limits: the outcome changes, the way home does not."""

import time

import pytest

from integration.libvirt.backup import Backup
from integration.libvirt.machines import VM, ask_qemu, same_content, wait_until
from integration.libvirt.releases import everywhere, pushing, releases
from integration.libvirt.rig import Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk
from testbed.images import overlay_image
from vmbackup.api.vmbackup import Outcome
from vmbackup.errors import Refused
from vmbackup.units import MIB


def begin_held(rig: Rig, method: str, **spec: object) -> Backup:
    """Begin a backup that stays in mid copy for minutes."""
    image = rig.large_image() if method == "Push" else rig.image("vda", data_mib=32)
    vm = rig.vm(Disk(image))
    return rig.held_push(vm, **spec) if method == "Push" else rig.held_copy(vm, **spec)


# -- cancel and deadline ----------------------------------------------------------------------------------------------


@everywhere
def test_cancel_in_mid_copy_takes_the_vm_home(rig: Rig, method: str) -> None:
    backup = begin_held(rig, method)
    (vm,) = rig.vms
    pid = vm.portrait().qemu_pid
    backup.cancel()
    run = backup.end()
    assert (run.outcome, run.failure and run.failure.reason) == (Outcome.CANCELLED, "Cancelled")
    assert_nothing_published(rig)
    after = vm.portrait()
    assert (after.state, after.qemu_pid, after.jobs) == ("running", pid, {})
    assert after.live["vda"][0] == str(vm.paths["vda"])
    assert after.inactive == {"vda": str(vm.paths["vda"])}


@everywhere
def test_deadline_in_mid_copy_takes_the_vm_home(rig: Rig, method: str) -> None:
    backup = begin_held(rig, method, deadline_seconds=3)
    (vm,) = rig.vms
    run = backup.end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason == "DeadlineExceeded"
    assert "in phase Copying" in run.failure.message
    assert run.attempt == 1, "a deadline must not be followed by a new attempt"
    assert_nothing_published(rig)
    after = vm.portrait()
    assert (after.state, after.jobs, after.live["vda"][0]) == ("running", {}, str(vm.paths["vda"]))


def test_cancel_after_the_copy_still_ends_as_cancelled_without_a_set(rig: Rig) -> None:
    vm = rig.vm()
    before = vm.portrait()
    request = rig.request(vm, method="Snapshot")
    wish: list[Backup] = []

    def cancel(moment: str, _run: object) -> None:
        if moment == "before Pivot":
            wait_until(lambda: wish, "the test knows its backup")
            wish[0].cancel()

    wish.append(rig.backup(vm, request=request, hook=cancel))
    run = wish[0].end()
    assert run.outcome is Outcome.CANCELLED
    assert_nothing_published(rig)
    assert vm.portrait() == before


# -- overlays ---------------------------------------------------------------------------------------------------------


@releases
def test_overlay_that_grows_over_its_limit_is_merged_and_the_backup_fails(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=32)))
    backup = rig.held_copy(vm, overlay={"max_bytes": "4Mi"})
    vm.writes("vda", 40 * MIB, 8 * MIB, byte=0xA7)
    run = backup.end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason == "OverlayLimitReached"
    assert "Raise spec.overlay" in run.failure.message
    assert_nothing_published(rig)
    assert vm.portrait().live["vda"][0] == str(vm.paths["vda"])
    assert vm.holds("vda", 40 * MIB, 0xA7), "the guest's writes on the overlay are lost"


def test_overlay_that_lives_too_long_is_merged_and_the_backup_fails(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("vda", data_mib=32)))
    before = vm.portrait()
    run = rig.held_copy(vm, overlay={"max_seconds": 10}).end()
    assert run.failure is not None
    assert (run.outcome, run.failure.reason) == (Outcome.FAILED, "OverlayLimitReached")
    assert run.overlay_milliseconds is not None
    assert run.overlay_milliseconds > 10_000
    assert_nothing_published(rig)
    assert vm.portrait() == before


# -- speed ------------------------------------------------------------------------------------------------------------


def assert_held(backup: Backup, vm: VM, bytes_per_second: int) -> None:
    """See that QEMU knows the limit, for all disks together, and keeps to it once its queue is empty."""
    wait_until(lambda: backup.seen.limited, "the limit is in force")
    with vm.domain() as domain:
        jobs = ask_qemu(domain, "query-block-jobs")
    assert sum(job["speed"] for job in jobs) == bytes_per_second

    def done_bytes() -> int:
        job = backup.engine.hypervisor.observe(backup.first).job
        assert job is not None, "the limit was not kept: the copy is over"
        return job.bytes_done

    time.sleep(2.0)  # up to 70 MB are on their way when the limit comes
    at, begin = time.monotonic(), done_bytes()
    time.sleep(2.0)
    assert (done_bytes() - begin) / (time.monotonic() - at) < 3 * bytes_per_second


def test_push_of_two_disks_keeps_to_its_speed_limit(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image("a", mib=2048)), Disk(rig.large_image("b", mib=2048), "vdb"))
    backup = rig.backup(vm, method="Auto", max_bytes_per_second="8Mi")
    assert backup.first.method == "Push"
    assert_held(backup, vm, 8 * MIB)
    backup.cancel()
    assert backup.end().outcome is Outcome.CANCELLED
    assert_nothing_published(rig)


@pushing
def test_push_keeps_to_its_speed_limit_where_the_monitor_may_be_used(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image(mib=2048)))
    backup = rig.backup(vm, may_use_monitor=True, method="Auto", max_bytes_per_second="8Mi")
    assert backup.first.method == "Push"
    assert_held(backup, vm, 8 * MIB)
    backup.cancel()
    assert backup.end().outcome is Outcome.CANCELLED
    assert_nothing_published(rig)


@pytest.mark.parametrize("release", ["11.3"])
def test_where_no_limit_goes_through_auto_takes_snapshot_and_says_so(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.image("a", data_mib=4)))
    before = vm.portrait()
    run = rig.run(vm, method="Auto", max_bytes_per_second="64Mi")
    assert run.method == "Snapshot"
    assert "libvirt 11.3.0 does not let a running push job be slowed down" in run.method_reason
    published = assert_published(rig, run)
    assert same_content(published / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@pytest.mark.parametrize("release", ["11.3"])
def test_where_no_limit_goes_through_push_with_a_limit_is_refused(rig: Rig) -> None:
    vm = rig.vm()
    before = vm.portrait()
    with pytest.raises(Refused) as refusal:
        rig.run(vm, method="Push", max_bytes_per_second="64Mi")
    assert refusal.value.reason == "SpeedLimitUnsupported"
    assert "Use method Snapshot or no maxBytesPerSecond" in refusal.value.message
    assert vm.portrait() == before
    assert_nothing_published(rig)


@pytest.mark.parametrize("chained", [False, True])
def test_copy_of_an_overlaid_disk_keeps_to_its_speed_limit(rig: Rig, *, chained: bool) -> None:
    image = rig.image("a", data_mib=48)
    vm = rig.vm(Disk(overlay_image(rig.disks / "top.qcow2", image) if chained else image))
    run = rig.run(vm, method="Snapshot", max_bytes_per_second="16Mi")
    assert_published(rig, run)
    assert run.overlay_milliseconds is not None
    assert run.overlay_milliseconds > 1500, "48 MiB at 16 MiB/s take 3 s"
