"""The agent dies, or is asked to end, in every phase."""

import time

from fault.cell import Cell
from fault.machine import patiently
from fault.rows import ON_OVERLAY, PUSH, SNAPSHOT, column
from fault.stage import GRACE_SECONDS

AWAY_SECONDS = {"agent-away-12s": 12, "agent-away-60s": 60}
THAWED_SECONDS = 10.0
END_SECONDS = 10.0


@column("agent-sigkill", push=PUSH, snapshot=SNAPSHOT)
def test_agent_is_killed_and_started_again(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("agent-killed-twice", push=("Freezing", "Starting", "Copying"), snapshot=ON_OVERLAY)
def test_agent_is_killed_again_while_it_recovers(cell: Cell) -> None:
    cell.catch()
    agent = cell.stage.agent
    agent.kill()
    before = cell.record_bytes()
    agent.start()
    patiently(lambda: cell.record_bytes() != before, 20)  # it has done something, and is in the midst of more
    agent.kill()
    agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("agent-away-12s", push=("Copying",), snapshot=("Copying", "Committing"))
@column("agent-away-60s", push=PUSH, snapshot=SNAPSHOT)
def test_agent_comes_back_late(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    time.sleep(AWAY_SECONDS[cell.fault])
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("agent-killed-while-frozen", push=("Starting",), snapshot=("Snapshotting",))
def test_guest_is_thawed_although_its_freezer_died(cell: Cell) -> None:
    cell.catch(when=lambda _: cell.machine.frozen())
    cell.stage.agent.kill()
    began = time.monotonic()
    thawed = patiently(lambda: not cell.machine.frozen(), 30)
    frozen_seconds = time.monotonic() - began
    cell.stage.agent.start()
    cell.fault_is_over()
    assert thawed, "nobody thawed the guest in 30 s"
    assert frozen_seconds < THAWED_SECONDS
    cell.until_home()
    cell.ends()


@column("agent-sigterm", push=PUSH, snapshot=SNAPSHOT)
def test_agent_is_asked_to_end(cell: Cell) -> None:
    """As when a node is drained: no VM is left on an overlay, and the next agent goes on."""
    cell.catch()
    agent = cell.stage.agent
    agent.go_on()  # first: a stopped process hands a signal to any thread, a running one to its first
    agent.ask_to_end()
    assert agent.wait_for_end(GRACE_SECONDS + END_SECONDS) == 0
    if cell.method == "Snapshot":
        seen = cell.machine.portrait()
        assert (seen.live, seen.inactive, seen.jobs) == (cell.before.live, cell.before.inactive, {})
    agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()
