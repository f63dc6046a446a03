"""The children that copy and check images die or hang."""

import os
import signal

from fault.cell import Cell
from fault.rows import column


def strike(cell: Cell, number: signal.Signals) -> None:
    children = cell.stage.agent.children("qemu-img")
    assert children, "no qemu-img runs"
    for child in children:
        os.kill(child, number)
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()


@column("copy-killed", snapshot=("Copying",))
def test_copy_is_killed(cell: Cell) -> None:
    cell.catch(when=has_child, once=has_child)
    strike(cell, signal.SIGKILL)
    cell.ends(says="signal 9", attempts=2)


@column("check-killed", push=("Verifying",), snapshot=("Verifying",))
def test_check_is_killed(cell: Cell) -> None:
    cell.kill_child("qemu-img")
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="signal 9", attempts=2)


@column("copy-hangs", snapshot=("Copying",))
def test_copy_hangs(cell: Cell) -> None:
    cell.catch(when=has_child, once=has_child)
    strike(cell, signal.SIGSTOP)
    cell.ends(says="has not moved", attempts=2)


def has_child(cell: Cell) -> bool:
    return bool(cell.stage.agent.children("qemu-img"))
