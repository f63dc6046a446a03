"""Somebody works on the VM by hand while a backup of it is under way."""

import time

from fault.cell import Cell
from fault.machine import patiently
from fault.rows import column


@column("overlay-removed-by-hand", snapshot=("Copying", "Committing", "Pivoting"))
def test_overlay_is_unlinked_while_the_guest_writes_to_it(cell: Cell) -> None:
    cell.catch()
    for path in cell.overlays():
        path.unlink()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("redefined-on-base", snapshot=("Copying", "Committing", "Pivoting", "Cleaning"))
def test_definition_is_replaced_by_one_with_the_base(cell: Cell) -> None:
    """As tools do that keep XML of their own. QEMU goes on, so the overlay is merged as ever."""
    cell.catch()
    cell.machine.define_on_bases()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("diverged", snapshot=("Copying", "Committing"))
def test_vm_was_started_on_a_base_that_misses_the_overlay(cell: Cell) -> None:
    """Redefined, then started again: both images hold writes that the other misses. A human must decide."""
    cell.catch()
    cell.machine.define_on_bases()
    cell.machine.vm.kill_qemu()
    overlays = cell.overlays()
    cell.vm_comes_back()
    cell.machine.until_working()
    cell.stage.agent.go_on()
    cell.strands(overlays)


@column("transient-vm-dies", snapshot=("Copying",))
def test_transient_vm_dies_on_the_overlay(cell: Cell) -> None:
    """Its definition is gone with it; only the overlay knows what the guest wrote since the snapshot."""
    cell.machine.undefine()
    cell.catch()
    cell.machine.vm.kill_qemu()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.strands(cell.overlays(), vm_runs=False)


@column("undefined", push=("Copying",), snapshot=("Copying", "Pivoting"))
def test_vm_is_undefined_and_runs_on_as_transient(cell: Cell) -> None:
    cell.catch()
    cell.machine.undefine()
    cell.becomes_transient()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("vm-gone-for-good", push=("Copying",))
def test_vm_is_destroyed_and_undefined(cell: Cell) -> None:
    cell.catch()
    cell.machine.vm.stop()
    cell.machine.undefine()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.ends_without_vm()


@column("foreign-snapshot-on-top", snapshot=("Copying", "Committing"))
def test_stranger_takes_a_snapshot_on_top_of_our_overlay(cell: Cell) -> None:
    cell.catch()
    overlays = cell.overlays()
    cell.machine.take_foreign_snapshot()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.strands(overlays, named=overlays[0].name)


@column("foreign-block-job", push=("Preparing",), snapshot=("Preparing", "Copying"))
def test_stranger_copies_a_disk_meanwhile(cell: Cell) -> None:
    cell.catch()
    with cell.machine.foreign_block_job():
        cell.stage.agent.go_on()
        assert patiently(lambda: cell.has_said("block|job"), 40), cell.all_that_is_known()
        time.sleep(2)
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="block copy|block job|copy job|Foreign|somebody")


@column("foreign-job-before", push=("Preparing",), snapshot=("Preparing",))
def test_stranger_works_on_the_vm_when_the_backup_is_asked_for(cell: Cell) -> None:
    with cell.machine.foreign_block_job():
        cell.begin()
        assert patiently(lambda: cell.has_said("ForeignJob"), 20), cell.all_that_is_known()
    cell.fault_is_over()
    cell.ends(says="ForeignJob", attempts=1)
