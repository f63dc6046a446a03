"""The agent dies in every phase of every restore, and on the way back."""

from fault.restore_cell import RestoreCell
from fault.rows import RESTORES, rows

# The phase in which a cancel is heard, so that Discarding has the most to undo.
FURTHEST = {"NewDomain": "Copying", "Disks": "Copying", "InPlace": "Copying", "Instant": "Pulling"}


@rows("agent-sigkill", **RESTORES)
def test_agent_is_killed_and_the_restore_goes_on(restore: RestoreCell) -> None:
    restore.catch()
    restore.stage.agent.kill()
    restore.stage.agent.start()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows("agent-killed-half-placed", InPlace=("Placing",))
def test_agent_is_killed_between_two_disks(restore: RestoreCell) -> None:
    restore.catch(when=restore.is_half_placed)
    restore.stage.agent.kill()
    restore.stage.agent.start()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows(
    "vmrestore-cancelled-agent-killed",
    NewDomain=("Discarding",),
    Disks=("Discarding",),
    InPlace=("Discarding",),
    Instant=("Discarding",),
)
def test_agent_is_killed_while_it_undoes_a_cancelled_restore(restore: RestoreCell) -> None:
    restore.begin(maxBytesPerSecond="2Mi")
    assert restore.hold_in(FURTHEST[restore.method])
    restore.cancel()
    restore.stage.agent.go_on()
    assert restore.hold_in("Discarding"), "Discarding was too short"
    restore.stage.agent.kill()
    restore.stage.agent.start()
    restore.fault_is_over()
    restore.ends("Cancelled", says="spec.cancel")
