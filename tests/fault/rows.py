"""The rows of the matrix, and how a test becomes a column of it."""

from collections.abc import Iterator

import pytest

from fault.faults import group_of, is_full_only
from vmbackup.api.vmbackup import Method, Phase
from vmbackup.core.decide import TABLES

# The phases of a backup that succeeds, in order.
PUSH, SNAPSHOT = (
    tuple(phase.value for phase in TABLES[method] if phase not in (Phase.DISCARDING, Phase.ASSIGNED, Phase.DONE))
    for method in (Method.PUSH, Method.SNAPSHOT)
)
ON_OVERLAY = ("Snapshotting", "Copying", "Committing", "Pivoting", "Cleaning")


def column(fault: str, *, push: tuple[str, ...] = (), snapshot: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Run the test for these phases of both methods; a test may be several columns."""
    group_of(fault)
    rows = [("Push", phase) for phase in push] + [("Snapshot", phase) for phase in snapshot]
    return pytest.mark.column(fault, rows)


def cells(function: pytest.Metafunc) -> Iterator[object]:
    """Yield the cells of a test as pytest's parameters."""
    for mark in function.definition.iter_markers("column"):
        fault, rows = mark.args
        for method, phase in rows:
            row = f"{method.lower()}-{phase}"
            marks = [pytest.mark.full] if is_full_only(fault, row) else []
            yield pytest.param((method, phase, fault), id=f"{row}-{fault}", marks=marks)
