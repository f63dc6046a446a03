"""The location, or the file system of the VM's disks, is full, broken, hung, read-only or gone."""

import shutil
import time

from fault.cell import Cell
from fault.mounts import fill, remount
from fault.rows import column
from fault.stage import SICK, SMALL, SPARE
from integration.libvirt.machines import wait_until
from vmbackup.units import MIB

NEARLY_FULL_BYTES = 8 * MIB
BELOW_OVERLAY_RESERVE_BYTES = 300 * MIB
WRITTEN_BYTES = 8 * MIB


@column("target-full-before", push=("Preparing",), snapshot=("Preparing",))
def test_target_has_too_little_room_from_the_start(cell: Cell) -> None:
    ballast = fill(cell.stage.directory(SMALL), NEARLY_FULL_BYTES)
    cell.begin(SMALL)
    cell.fault_is_over()
    cell.until_home()
    cell.until_over()
    ballast.unlink()
    cell.ends("Refused", reason="NotEnoughSpace", says="free")


@column("target-nearly-full", push=("Copying",), snapshot=("Copying",))
def test_target_fills_up_and_the_backup_stops_before_it_is_full(cell: Cell) -> None:
    cell.catch(SMALL)
    fill(cell.stage.directory(SMALL), NEARLY_FULL_BYTES)
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends("Failed", reason="NotEnoughSpace", says="are left in")


@column("target-full", push=("Copying",), snapshot=("Copying",))
def test_target_is_full_to_the_last_byte(cell: Cell) -> None:
    cell.catch(SMALL)
    fill(cell.stage.directory(SMALL))
    if cell.method == "Push":
        cell.let_push_fail()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.until_over()
    (cell.stage.directory(SMALL) / "ballast").unlink(missing_ok=True)
    cell.ends(("Failed", "Refused"), reason="NotEnoughSpace", says="No space left|are left in|free")


@column("target-full", push=("Verifying", "Publishing"), snapshot=("Verifying", "Publishing"))
def test_target_is_full_at_the_end(cell: Cell) -> None:
    cell.catch(SMALL)
    fill(cell.stage.directory(SMALL))
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.until_over()
    (cell.stage.directory(SMALL) / "ballast").unlink()
    cell.ends("Failed", reason="NotEnoughSpace", says="No space left")


@column(
    "target-read-only", push=("Preparing", "Verifying", "Publishing"), snapshot=("Preparing", "Verifying", "Publishing")
)
def test_target_becomes_read_only_for_a_while(cell: Cell) -> None:
    cell.catch(SMALL)
    remount(cell.stage.directory(SMALL), "ro")
    cell.stage.agent.go_on()
    time.sleep(3)
    remount(cell.stage.directory(SMALL), "rw")
    cell.fault_is_over()
    cell.until_home()
    if cell.phase == "Preparing":
        cell.ends("Refused", reason="LocationUnusable", says="read-only")
    else:
        cell.ends(says="[Rr]ead-only", attempts=2)


@column("target-removed", push=("Copying", "Verifying", "Publishing"), snapshot=("Copying", "Verifying", "Publishing"))
def test_target_directory_is_removed_and_made_again(cell: Cell) -> None:
    cell.stage.use_spare_location()
    cell.catch(SPARE)
    directory = cell.stage.directory(SPARE)
    shutil.rmtree(directory)
    cell.stage.agent.go_on()
    time.sleep(3)
    directory.mkdir()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="spare", attempts=2)


@column("target-io-error", push=("Copying", "Verifying"), snapshot=("Copying", "Verifying", "Publishing"))
def test_target_fails_with_io_errors_until_it_is_repaired(cell: Cell) -> None:
    cell.guest_writes_may_fail = (cell.method, cell.phase) == ("Push", "Copying")  # decision 0016
    cell.stage.use_sick_location()
    cell.catch(SICK)
    cell.stage.sick.fail()
    cell.let_push_go()
    cell.stage.agent.go_on()
    time.sleep(3)
    cell.stage.sick.repair()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="I/O|Input/output|[Rr]ead-only|Structure", attempts=2)


@column("target-io-error-overwrites", push=("Copying",))
def test_guest_overwrites_what_a_failing_target_misses(cell: Cell) -> None:
    """QEMU fails such a write although the job goes on: a limit of push, see decision 0016."""
    cell.spoils = cell.guest_writes_may_fail = True
    overwrite_while_target_fails(cell)
    wait_until(lambda: cell.machine.writes()[1] > cell.failed_before, "writes of the guest fail")
    assert cell.machine.portrait().jobs, "the job had ended before"
    assert cell.machine.portrait().state == "running"
    come_home(cell)
    cell.ends(says="writes of the guest", attempts=2)


@column("target-io-error-overwrites-stop", push=("Copying",))
def test_guest_that_stops_at_errors_overwrites_what_a_failing_target_misses(cell: Cell) -> None:
    """Its writes are done when the job is over and it is told to go on: the guest sees no error."""
    cell.spoils = True
    cell.machine.build(error_policy="stop")
    cell.stage.until_ready()
    overwrite_while_target_fails(cell)
    wait_until(lambda: cell.machine.portrait().state == "paused", "QEMU pauses the guest")
    assert cell.machine.portrait().jobs, "the job had ended before"
    come_home(cell)
    cell.ends(says="paused the guest for an I/O error", attempts=2)


def overwrite_while_target_fails(cell: Cell) -> None:
    cell.stage.use_sick_location()
    cell.catch(SICK)
    cell.stage.sick.fail()
    cell.machine.overwrite_late_data()


def come_home(cell: Cell) -> None:
    cell.let_push_go()
    cell.stage.agent.go_on()
    time.sleep(3)
    cell.stage.sick.repair()
    cell.fault_is_over()
    cell.until_home()


@column("target-hangs", snapshot=("Copying",))
def test_vm_goes_home_while_the_target_hangs(cell: Cell) -> None:
    cell.stage.use_sick_location()
    cell.catch(SICK)
    cell.stage.sick.hang()
    cell.stage.agent.go_on()
    cell.fault_is_over()  # it lasts, but the VM must not wait for it
    cell.until_home()
    cell.stage.sick.recover()
    cell.ends(says="has not moved|does not answer", attempts=2)


@column("target-hangs", push=("Copying",))
def test_push_target_hangs_for_a_while(cell: Cell) -> None:
    """QEMU itself waits for the target; when it answers again, the job is aborted and the guest goes on."""
    cell.stage.use_sick_location()
    cell.catch(SICK)
    cell.let_push_go()
    cell.stage.sick.hang()
    cell.stage.agent.go_on()
    time.sleep(15)
    cell.stage.sick.recover()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="has not moved|does not answer", attempts=2)


@column("source-nearly-full", snapshot=("Copying",))
def test_disks_file_system_fills_up_and_the_overlay_limit_acts_first(cell: Cell) -> None:
    cell.catch()
    ballast = fill(cell.machine.disks, BELOW_OVERLAY_RESERVE_BYTES)
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    ballast.unlink()
    cell.ends("Failed", reason="OverlayLimitReached", says="left beside them")


@column("source-full", snapshot=("Copying",))
def test_disks_file_system_is_full_and_the_guest_is_paused_until_it_is_home(cell: Cell) -> None:
    """The administrator makes room; a VM that was paused because of our overlay is not left paused."""
    cell.catch()
    ballast = fill(cell.machine.disks)
    cell.machine.write_until_paused()
    cell.stage.agent.go_on()
    time.sleep(3)
    ballast.unlink()
    cell.fault_is_over()
    cell.until_home()
    cell.ends("Failed", reason="OverlayLimitReached", says="left beside them")


@column("overlay-too-large", snapshot=("Copying",))
def test_guest_writes_more_than_the_overlay_may_hold(cell: Cell) -> None:
    cell.catch(overlay={"maxBytes": "4Mi"})
    cell.machine.vm.writes("vdb", 48 * MIB, WRITTEN_BYTES)
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends("Failed", reason="OverlayLimitReached", says="overlays reached")
