"""`vmbackup-operator import`: VMBackups for sets that have none, after a cluster was lost or a disk was moved here.

Done again, it goes on where it ended: a set is known by its UID. Nothing in the location is changed.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vmbackup.api import names
from vmbackup.api.manifest import Manifest
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.client import Body, Client, find_kubeconfig
from vmbackup.cluster.errors import Conflict
from vmbackup.cluster.resources import LOCATION, VMBACKUP, Resources
from vmbackup.core.imported import imported_body, imported_status, set_uid
from vmbackup.core.kstatus import Stamp
from vmbackup.errors import Refused, VMBackupError
from vmbackup.store.catalog import Entry, entries

SETS = ("set", "damaged")


@dataclass(frozen=True)
class Question:
    """`name`: the VMBackupLocation that the directory is. `schedule`: whose retention shall see them, if any."""

    kubeconfig: Path | None
    location: Path
    name: str
    namespace: str
    schedule: str = ""


def main(console: Console, question: Question) -> int:
    """Exit codes: 0 every whole set has its VMBackup, 1 some are damaged and were left out, 2 it could not be done."""
    try:
        resources = Resources(Client(find_kubeconfig(question.kubeconfig), field_manager="vmbackup-import"))
        damaged = 0
        for entry, said in import_sets(resources, question):
            damaged += entry.state == "damaged"
            console.print(f"{said:10} {entry.path}", markup=False, soft_wrap=True)
    except (VMBackupError, OSError) as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    return 1 if damaged else 0


def import_sets(resources: Resources, question: Question) -> list[tuple[Entry, str]]:
    """Make the VMBackups that are missing; return what became of every set.

    Raises: Refused: the directory is not that location's. NotFound, Denied, APIServerAway, Conflict, OSError.
    """
    path = resources.get(LOCATION, question.name)["spec"]["directory"]["path"]
    if path != str(question.location):
        raise Refused("LocationUnusable", f"VMBackupLocation {question.name} is {path}, not {question.location}.")
    there = {set_uid(backup): (backup, body) for backup, body in _backups(resources, question.namespace)}
    found = (entry for entry in entries(str(question.location), question.namespace) if entry.state in SETS)
    return [(entry, _import(resources, question, entry, there)) for entry in found]


def _import(resources: Resources, question: Question, entry: Entry, there: dict[str, tuple[VMBackup, Body]]) -> str:
    if entry.state == "damaged" or entry.manifest is None:
        return "damaged"
    known = there.get(entry.manifest.backup_uid)
    if known is not None and (known[0].finished or names.ANNOTATION_IMPORTED not in known[0].metadata.annotations):
        return "known"
    body = known[1] if known else _make(resources, question, entry.manifest)
    stamp = Stamp(time.time(), body["metadata"].get("generation", 1))
    status = imported_status(entry.manifest, entry.path, entry.stored_bytes, stamp)
    resources.patch_status(VMBACKUP, body, status)
    return "imported"


def _make(resources: Resources, question: Question, manifest: Manifest) -> Body:
    try:
        return resources.create(VMBACKUP, imported_body(manifest, question.name, schedule=question.schedule))
    except Conflict:
        body = imported_body(manifest, question.name, schedule=question.schedule, plain=False)
        return resources.create(VMBACKUP, body)


def _backups(resources: Resources, namespace: str) -> list[tuple[VMBackup, Body]]:
    return [(VMBackup.parse(body), body) for body in resources.list(VMBACKUP, namespace)]
