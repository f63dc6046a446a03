"""The rows of the matrix, and how a test becomes a column of it."""

import pytest

PUSH = ("Preparing", "Freezing", "Starting", "Copying", "Verifying", "Publishing")
SNAPSHOT = (
    "Preparing",
    "Freezing",
    "Snapshotting",
    "Copying",
    "Committing",
    "Pivoting",
    "Cleaning",
    "Verifying",
    "Publishing",
)


def column(
    fault: str, *, push: tuple[str, ...] = (), snapshot: tuple[str, ...] = (), full: tuple[str, ...] = ()
) -> pytest.MarkDecorator:
    """Run the test for each phase of both methods; cells named in `full` ("push-Copying") only in `make fault-full`."""
    rows = [("Push", phase) for phase in push] + [("Snapshot", phase) for phase in snapshot]
    params = [
        pytest.param(
            (method, phase, fault),
            id=f"{method.lower()}-{phase}-{fault}",
            marks=[pytest.mark.full] if f"{method.lower()}-{phase}" in full or "all" in full else [],
        )
        for method, phase in rows
    ]
    return pytest.mark.parametrize("cell", params, indirect=True)
