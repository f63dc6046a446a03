"""The rows of the matrix, and how a test becomes a column of it."""

from collections.abc import Iterator

import pytest

from fault.faults import group_of, is_full_only
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Method, Phase
from vmbackup.core.decide import TABLES
from vmbackup.core.restore_path import path_of

# The phases of a backup that succeeds, in order.
PUSH, SNAPSHOT = (
    tuple(phase.value for phase in TABLES[method] if phase not in (Phase.DISCARDING, Phase.ASSIGNED, Phase.DONE))
    for method in (Method.PUSH, Method.SNAPSHOT)
)
TARGETS: dict[RestoreKind, dict[str, object]] = {
    RestoreKind.NEW_DOMAIN: {"newDomain": {"name": "back", "start": True}},
    RestoreKind.DISKS: {"disks": {}},
    RestoreKind.IN_PLACE: {"inPlace": {"overwrite": True, "start": True}},
    RestoreKind.INSTANT: {"instant": {"name": "back"}},
}


def path(kind: RestoreKind) -> tuple[str, ...]:
    """Return the phases of a restore that succeeds, in order, but for Done."""
    words = ("uid", "namespace", "name", "vm", "location", "locationPath", "setPath", "backupUid", "pointInTime")
    spec = {"source": {"backup": "any"}, "target": TARGETS[kind]}
    rest = {"imagesPath": "any", "spec": spec, "kind": kind, "disks": (), "startedAt": 0.0}
    run = RestoreRun.model_validate(dict.fromkeys(words, "any") | rest)
    return tuple(phase.value for phase in path_of(run) if phase is not RestorePhase.DONE)


RESTORES = {kind.value: path(kind) for kind in TARGETS}
REMOVAL = ("Recorded", "Renamed")  # the record is on disk; the set has its trash name
SCHEDULE = ("Due", "Made")  # just before the time; the child is made and the status is not written
ON_OVERLAY = ("Snapshotting", "Copying", "Committing", "Pivoting", "Cleaning")


def column(fault: str, *, push: tuple[str, ...] = (), snapshot: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Run the test for these phases of both methods; a test may be several columns."""
    group_of(fault)
    rows = [("Push", phase) for phase in push] + [("Snapshot", phase) for phase in snapshot]
    return pytest.mark.column(fault, rows)


def rows(fault: str, **phases: tuple[str, ...]) -> pytest.MarkDecorator:
    """Run the test for these phases of restores, by their kind; also of Removal and Schedule."""
    group_of(fault)
    return pytest.mark.column(fault, [(kind, phase) for kind, found in phases.items() for phase in found])


def cells(function: pytest.Metafunc) -> Iterator[object]:
    """Yield the cells of a test as pytest's parameters."""
    for mark in function.definition.iter_markers("column"):
        fault, rows = mark.args
        for method, phase in rows:
            row = f"{method.lower()}-{phase}"
            marks = [pytest.mark.full] if is_full_only(fault, row) else []
            yield pytest.param((method, phase, fault), id=f"{row}-{fault}", marks=marks)
