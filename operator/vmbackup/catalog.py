"""`vmbackup-operator catalog`: the sets of a location, from what they say of themselves. Needs no cluster.

Exit codes: 0 all is well, 1 something is damaged or not known, 2 the location cannot be read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vmbackup.errors import VMBackupError
from vmbackup.store.catalog import Entry, entries
from vmbackup.units import human_bytes

NEEDS_A_LOOK = frozenset({"damaged", "unknown"})


@dataclass(frozen=True)
class Question:
    """What the command line asks for; empty texts ask for all."""

    location: Path
    namespace: str = ""
    vm: str = ""
    as_json: bool = False


def main(console: Console, question: Question) -> int:
    try:
        found = entries(str(question.location), question.namespace)
    except (VMBackupError, OSError) as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    found = [entry for entry in found if not question.vm or entry.path.split("/")[1] == question.vm]
    if question.as_json:
        console.print_json(json.dumps([_record(entry) for entry in found]))
    elif not found:
        console.print(f"There is no set in {question.location}.", markup=False)
    else:
        console.print(_table(found))
        for entry in found:
            if entry.words:
                console.print(f"{entry.state:10} {entry.path}: {entry.words}", markup=False, soft_wrap=True)
    return 1 if any(entry.state in NEEDS_A_LOOK for entry in found) else 0


def _record(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest.model_dump(mode="json", by_alias=True) if entry.manifest else None
    return {
        "path": entry.path,
        "state": entry.state,
        "storedBytes": entry.stored_bytes,
        "message": entry.words,
        "manifest": manifest,
    }


def _table(found: list[Entry]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("NAMESPACE", "VM", "TIME", "STATE", "DISKS", "SIZE", "METHOD", "VERIFIED", "BACKUP"):
        table.add_column(title, no_wrap=True, overflow="ignore")
    for entry in found:
        table.add_row(*_cells(entry))
    return table


def _cells(entry: Entry) -> Iterator[str]:
    namespace, vm, name = entry.path.split("/")
    yield from (namespace, vm)
    manifest = entry.manifest
    if manifest is None:
        yield from ("", entry.state, "", human_bytes(entry.stored_bytes), "", "", name)
        return
    yield from (manifest.point_in_time, entry.state, ",".join(disk.target for disk in manifest.disks))
    yield from (human_bytes(entry.stored_bytes), str(manifest.method), manifest.verified, manifest.backup_name)
