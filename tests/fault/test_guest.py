"""The guest's own agent does not answer, dies while the guest is frozen, or answers with an error."""

from fault.cell import Cell
from fault.machine import patiently
from fault.rows import column

BOTH = {"push": ("Freezing",), "snapshot": ("Freezing",)}
NOT_QUIESCED = "Quiesced: FreezeFailed"


@column("guest-agent-silent", **BOTH)
def test_guest_agent_never_answers(cell: Cell) -> None:
    cell.machine.play_in_guest("silent")
    cell.machine.until_agent_silent()
    cell.begin()
    cell.fault_is_over()
    cell.until_over()
    cell.until_home()
    assert patiently(cell.machine.agent_answers, 30)
    cell.ends(says=NOT_QUIESCED, attempts=1)


@column("guest-agent-silent-required", **BOTH)
def test_guest_agent_never_answers_but_must(cell: Cell) -> None:
    cell.machine.play_in_guest("silent")
    cell.machine.until_agent_silent()
    cell.begin(quiesce="Required", deadlineSeconds=60)
    cell.fault_is_over()
    cell.until_home()
    assert patiently(cell.machine.agent_answers, 30)
    cell.ends(says="did not freeze|not answer|Freeze|freez")


@column("guest-agent-dies-frozen", **BOTH)
def test_guest_agent_dies_while_the_guest_is_frozen(cell: Cell) -> None:
    """It comes back by itself after some seconds, as a service does; the thaw is repeated until it is heard."""
    cell.machine.play_in_guest("die_when_frozen")
    # libvirt 9.0 that is told so while it starts a backup never takes note of the agent's end, nor of its return.
    cell.catch_frozen()
    cell.machine.until_agent_silent()
    cell.stage.agent.go_on()
    cell.until_over()
    assert patiently(lambda: cell.machine.agent_answers() and not cell.machine.frozen(), 40), "still frozen"
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says="thaw|Frozen|Freeze")


@column("guest-agent-refuses", **BOTH)
def test_guest_agent_answers_with_an_error(cell: Cell) -> None:
    cell.machine.play_in_guest("refuse")
    cell.machine.until_agent_refuses()
    cell.begin()
    cell.fault_is_over()
    cell.until_over()
    cell.until_home()
    assert patiently(cell.machine.agent_answers, 40)
    cell.ends(says="disk is on fire", attempts=1)
