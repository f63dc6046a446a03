"""One stage for all cells; every cell's result is written to results.json."""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault.box import Box
from fault.cell import Cell
from fault.faults import FAULTS
from fault.machine import digest
from fault.mounts import own_mounts
from fault.removal_cell import RemovalCell
from fault.restore_cell import RestoreCell
from fault.rows import cells
from fault.schedule_cell import ScheduleCell
from fault.stage import Stage, keep

WORDS = {fault: words for faults in FAULTS.values() for fault, words in faults.items()}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: a cell that only `make fault-full` runs")
    config.addinivalue_line("markers", "column(fault, rows): a column of the fault matrix")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture in {"cell", "restore", "removal", "timed"} & set(metafunc.fixturenames):
        metafunc.parametrize(fixture, list(cells(metafunc)), indirect=True)


@pytest.fixture(scope="session")
def whole_stage() -> Iterator[Stage]:
    own_mounts()
    place = Path(tempfile.mkdtemp(prefix="vbf-", dir="/var/tmp"))
    place.chmod(0o755)
    stage = Stage(place)
    try:
        stage.start()
        stage.machine.build()
        stage.until_ready()
        make_old_set(stage)
        yield stage
    finally:
        stage.stop()
        if not keep():
            shutil.rmtree(place, ignore_errors=True)


def make_old_set(stage: Stage) -> None:
    """Have one good set from before, which no fault may touch."""
    first = Cell(stage, "Push", "Done", "none")
    first.begin()
    first.ends()
    (path,) = first.sets()
    stage.old_set = {str(file): digest(file) for file in path.iterdir()}


@pytest.fixture
def cell(request: pytest.FixtureRequest, whole_stage: Stage) -> Iterator[Cell]:
    cell = request.node.cell = Cell(whole_stage, *request.param)
    whole_stage.machine.until_working()
    whole_stage.until_ready()
    yield cell
    cell.close()
    whole_stage.mend(spoiled=cell.spoils or not cell.whole)


@pytest.fixture(scope="session")
def box(whole_stage: Stage) -> Box:
    box = Box(whole_stage)
    box.build()
    return box


@pytest.fixture
def restore(request: pytest.FixtureRequest, whole_stage: Stage, box: Box) -> Iterator[RestoreCell]:
    whole_stage.until_ready()
    cell = request.node.cell = RestoreCell(whole_stage, box, *request.param)
    yield cell
    cell.close()
    cell.mend()


@pytest.fixture
def removal(request: pytest.FixtureRequest, whole_stage: Stage, box: Box) -> Iterator[RemovalCell]:
    whole_stage.until_ready()
    cell = request.node.cell = RemovalCell(whole_stage, box, *request.param)
    yield cell
    cell.mend()


@pytest.fixture
def timed(request: pytest.FixtureRequest, whole_stage: Stage, box: Box) -> Iterator[ScheduleCell]:
    """A schedule of every minute for the VM that is off."""
    whole_stage.until_ready()
    cell = request.node.cell = ScheduleCell(whole_stage, *request.param)
    cell.stand_in()
    yield cell
    cell.mend()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    cell = getattr(item, "cell", None)
    if call.when == "call" and cell is not None:
        full = item.get_closest_marker("full") is not None
        result = {
            "method": cell.method,
            "phase": cell.phase,
            "fault": cell.fault,
            "passed": report.passed,
            "seconds": round(call.duration, 1),
            "tier": "full" if full else "fault",
            **cell.told(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        if "VMBACKUP_FAULT_RESULTS" in os.environ:
            write_down(Path(os.environ["VMBACKUP_FAULT_RESULTS"]), result)
    return report


def write_down(results: Path, result: dict[str, Any]) -> None:
    """Put a cell into the file at once; cells that are not run keep their last result."""
    with results.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two workers write
        file.seek(0)
        text = file.read()
        known = json.loads(text)["cells"] if text else {}
        known[f"{result['method'].lower()}-{result['phase']}-{result['fault']}"] = result
        cells = {name: cell for name, cell in sorted(known.items()) if cell["fault"] in WORDS}
        fresh = json.dumps({"faults": FAULTS, "cells": cells}, indent=1) + "\n"
        file.truncate(0)
        file.write(fresh)
