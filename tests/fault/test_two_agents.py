"""Two agents are started by mistake for one node."""

from collections.abc import Iterator

import pytest

from fault.cell import Cell
from fault.machine import patiently
from fault.processes import Process
from fault.rows import column
from fault.stage import Stage


@pytest.fixture
def second(request: pytest.FixtureRequest, whole_stage: Stage) -> Iterator[Process]:
    """A second agent of the node: with the same state directory, or with another one."""
    other = whole_stage.place / "other-state"
    other.mkdir(exist_ok=True)
    state = other if "other-state" in request.node.name else whole_stage.state
    second = whole_stage.new_agent("second-agent", state)
    second.log.unlink(missing_ok=True)
    second.start()
    try:
        assert patiently(lambda: "stands by" in second.last_words(), 20), "the second agent does not stand by"
        yield second
    finally:
        second.kill()


@column("second-agent", push=("Copying",), snapshot=("Copying",))
@column("second-agent-other-state", push=("Copying",), snapshot=("Copying",))
def test_one_backup_is_done_once(second: Process, cell: Cell) -> None:
    cell.begin()
    cell.fault_is_over()
    cell.ends(attempts=1)
    assert second.runs


@column("second-agent-first-killed", push=("Copying",), snapshot=("Copying", "Committing"))
def test_second_agent_takes_over(second: Process, cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()
