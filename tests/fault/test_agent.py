"""The agent dies, or is asked to end, in every phase."""

import time

from fault.cell import Cell
from fault.rows import PUSH, SNAPSHOT, column


@column("agent-sigkill", push=PUSH, snapshot=SNAPSHOT)
def test_agent_is_killed_and_started_again(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()
