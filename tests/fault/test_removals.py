"""Somebody dies while a set is removed."""

import time

from fault.removal_cell import RemovalCell
from fault.rows import REMOVAL, rows

AWAY_SECONDS = 6


@rows("agent-sigkill", Removal=REMOVAL)
def test_agent_is_killed_while_it_removes_a_set(removal: RemovalCell) -> None:
    removal.catch()
    removal.stage.agent.kill()
    removal.stage.agent.start()
    removal.fault_is_over()
    removal.ends()


@rows("api-away-agent-killed", Removal=REMOVAL)
def test_agent_is_killed_while_it_removes_a_set_and_nobody_can_be_told(removal: RemovalCell) -> None:
    removal.catch()
    removal.stage.front.hang_up()
    removal.stage.agent.kill()
    removal.stage.agent.start()
    time.sleep(AWAY_SECONDS)
    removal.stage.front.answer()
    removal.stage.agent.start()  # as a kubelet does, if it has ended
    removal.fault_is_over()
    removal.ends()
