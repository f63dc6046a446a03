"""Writes docs/fault-matrix.md out of tests/fault/results.json, which `make fault` and `make fault-full` write."""

import json
from pathlib import Path
from typing import Any

from state_svg import way_to_a_set

from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.core.decide import TABLES
from vmbackup.core.restore_path import path_of

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "tests" / "fault" / "results.json"
PHASES: dict[str, tuple[str, ...]] = {str(method): tuple(way_to_a_set(table)) for method, table in TABLES.items()}
RESTORES: dict[RestoreKind, dict[str, Any]] = {
    RestoreKind.NEW_DOMAIN: {"newDomain": {"name": "back", "start": True}},
    RestoreKind.DISKS: {"disks": {}},
    RestoreKind.IN_PLACE: {"inPlace": {"overwrite": True, "start": True}},
    RestoreKind.INSTANT: {"instant": {"name": "back"}},
}
OTHERS = {"Removal": ("Recorded", "Renamed"), "Schedule": ("Due", "Made")}
RESTORE_HEAD = """\
# Restores, removals and schedules

A second VM, which is off, is restored from its set by every target. The agent is stopped the moment its journal shows
the phase, the fault strikes, and everything goes on. A cell is good only if afterwards either all of it is there (the
images show what the set shows and refer to no other file, the VM is defined on them, and runs where that was asked
for), or all is as before (the VM off, as defined, on its old disks to the byte; no other file, no other domain). In
both cases nothing of ours is left (working directory, journal record, finalizer, protection of the set), the sets are
untouched, with owner and mode, and the status or an Event names the fault. The number is the time from the end of the
last fault to the end of the restore, in seconds. *Gone* means that the deleted VMRestore is gone, and that one of both
holds.

A removal is good when the set and its VMBackup are gone and nothing else is; a schedule, when every minute has its one
child.
"""
HEAD = """\
<!-- Generated from tests/fault/results.json by `make fault`: do not edit. -->
# The fault matrix

Every cell is one test on real processes: kube-apiserver, libvirtd 9.0, QEMU, controller and agent. A VM with two disks
(a qcow2 image on a golden image, and a raw file), whose guest writes rising numbers to both for ever, is backed up; the
agent is stopped the moment its journal shows the phase, the fault strikes, and everything goes on.

A cell is good only if afterwards the guest runs as before and no write of it failed, its disks are the original chain
in live and inactive XML, nothing of ours is left (overlay, unfinished set, job, freeze, lock, journal record,
finalizer), the golden image, foreign files and an older set are untouched to the byte, every published set opens,
passes `qemu-img check` and holds one point in time, no name was used by two attempts, and the status or an Event names
the fault. The number is the time from the end of the last fault to the VM being home, in seconds; the bound is 60.
*2nd* means that the backup succeeded in its second attempt. *Failed* and *Refused* are how such a backup must end.
*Stranded* means that a human must decide: nothing was merged or removed, the overlay is named, `vmbackup-operator
inspect` explains. A row marked `*` is only in `make fault-full`.

One thing cannot be had: while the target of a push fails with I/O errors, QEMU fails the guest's writes to what is not
copied yet, unless its disks have `error_policy='stop'` ([decision 0016](decisions/0016-failing-push-targets.md)). Two
rows show both; in Copying of a push, the row with EIO does not count such writes.

{good} of {all} cells are good. Last run: {date}.
"""
ORDINALS = {1: "", 2: " 2nd", 3: " 3rd", 4: " 4th", 5: " 5th"}


def main() -> None:
    results = json.loads(RESULTS.read_text())
    (HERE / "fault-matrix.md").write_text(describe(results))


def describe(results: dict[str, Any]) -> str:
    cells = results["cells"].values()
    good = sum(cell["passed"] for cell in cells)
    date = max((cell["date"] for cell in cells), default="never")
    parts = [HEAD.format(good=good, all=len(cells), date=date)]
    for method, phases in PHASES.items():
        parts += _section(results, method, phases)
    parts.append(RESTORE_HEAD)
    for kind, target in RESTORES.items():
        parts += _section(results, kind.value, _way(kind, target))
    for method, phases in OTHERS.items():
        parts += _section(results, method, phases)
    return "\n".join(parts)


def _way(kind: RestoreKind, target: dict[str, Any]) -> tuple[str, ...]:
    """Return the phases of a restore that succeeds, in order, and the one that undoes."""
    words = ("uid", "namespace", "name", "vm", "location", "locationPath", "setPath", "backupUid", "pointInTime")
    spec = {"source": {"backup": "any"}, "target": target}
    rest = {"imagesPath": "any", "spec": spec, "kind": kind, "disks": (), "startedAt": 0.0}
    run = RestoreRun.model_validate(dict.fromkeys(words, "any") | rest)
    return *(phase.value for phase in path_of(run) if phase is not RestorePhase.DONE), RestorePhase.DISCARDING.value


def _section(results: dict[str, Any], method: str, phases: tuple[str, ...]) -> list[str]:
    parts = [f"## {method}\n"]
    for group, faults in results["faults"].items():
        lines = [
            line for name, words in faults.items() if (line := _row(results["cells"], method, phases, name, words))
        ]
        if lines:
            parts.append("\n".join([f"### {group}\n", *_head(phases), *lines, ""]))
    return parts


def _head(phases: tuple[str, ...]) -> list[str]:
    return [f"| fault | {' | '.join(phases)} |", f"| --- |{' --- |' * len(phases)}"]


def _row(cells: dict[str, Any], method: str, phases: tuple[str, ...], fault: str, words: str) -> str:
    row = [cells.get(f"{method.lower()}-{phase}-{fault}") for phase in phases]
    if not any(row):
        return ""
    mark = " `*`" if all(cell["tier"] == "full" for cell in row if cell) else ""
    return f"| {words}{mark} | {' | '.join(_cell(cell) for cell in row)} |"


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    if not cell["passed"]:
        return "**broken**"
    seconds = cell.get("recovery_seconds")
    time = "" if seconds is None else f"{seconds:.1f}"
    outcome = cell.get("outcome", "")
    if outcome in ("Succeeded", "Scheduled"):
        return f"{time}{ORDINALS.get(cell['attempts'], '')}" or "good"
    return f"{time} *{outcome}*".strip()


if __name__ == "__main__":
    main()
