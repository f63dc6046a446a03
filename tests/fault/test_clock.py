"""The node's clock is set forward or back by an hour."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault.cell import Cell
from fault.processes import Process
from fault.rows import column
from fault.stage import Stage

HOUR = 3600
JUMPS = {
    "clock-forward-1h": HOUR,
    "clock-back-1h": -HOUR,
    "clock-forward-1h-agent-killed": HOUR,
    "clock-back-1h-agent-killed": -HOUR,
}
WRAPPER = Path(__file__).with_name("jumping_clock.py")


@pytest.fixture
def clock(whole_stage: Stage) -> Iterator[Path]:
    """The file that sets the clock of the agent; the agent is another one for this cell."""
    usual: Process = whole_stage.agent
    usual.kill()
    offset = whole_stage.place / "clock-offset"
    offset.write_text("0")
    whole_stage.agent = whole_stage.new_agent(command=(sys.executable, str(WRAPPER), str(offset)))
    whole_stage.agent.start()
    yield offset
    whole_stage.agent.kill()
    whole_stage.agent = usual
    usual.start()


@column("clock-forward-1h", push=("Copying",), snapshot=("Copying", "Committing"))
@column("clock-back-1h", push=("Copying",), snapshot=("Copying", "Committing"))
@column("clock-forward-1h-agent-killed", push=("Copying",), snapshot=("Copying",))
@column("clock-back-1h-agent-killed", push=("Copying",), snapshot=("Copying",))
def test_clock_is_set(clock: Path, cell: Cell) -> None:
    """Neither the deadline nor the age of an overlay follows the jump."""
    cell.catch(deadlineSeconds=600, overlay={"maxSeconds": 300})
    clock.write_text(str(JUMPS[cell.fault]))
    if cell.fault.endswith("agent-killed"):
        cell.stage.agent.kill()
        cell.stage.agent.start()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(attempts=1)
