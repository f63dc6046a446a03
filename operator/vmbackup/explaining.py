"""`vmbackup-operator retention explain`: which sets of a schedule stay and which go, and why. Changes nothing.

With a file, the policy of the file is tried on the sets that there are: before it is applied.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console

from vmbackup.api import names
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.client import Client, find_kubeconfig
from vmbackup.cluster.resources import LOCATION, SCHEDULE, VMBACKUP, Resources
from vmbackup.core.children import child_of, judge_children
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.retention import Verdict
from vmbackup.errors import Refused, VMBackupError


@dataclass(frozen=True)
class Question:
    """A schedule by name, or by the file that is to be applied."""

    kubeconfig: Path | None
    namespace: str
    schedule: str = ""
    file: Path | None = None
    as_json: bool = False


def main(console: Console, question: Question) -> int:
    """Exit codes: 0 told, 2 the question cannot be answered."""
    try:
        verdicts = explain(question)
    except (VMBackupError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    except KeyError as error:
        console.print(f"timeZone: {error.args[0]}", markup=False, soft_wrap=True)
        return 2
    if question.as_json:
        console.print_json(json.dumps([_record(vm, verdict) for vm in verdicts for verdict in verdicts[vm]]))
        return 0
    for vm, every in verdicts.items():
        gone = sum(not verdict.keep for verdict in every)
        console.print(f"VM {vm}: {len(every) - gone} set(s) stay, {gone} go", markup=False)
        for verdict in every:
            word = "keep  " if verdict.keep else "remove"
            line = f"  {word}  {rfc3339(verdict.set.at)}  {verdict.set.name}: {'; '.join(verdict.reasons)}"
            console.print(line, markup=False, soft_wrap=True)
    if not verdicts:
        console.print("There is no set of this schedule yet.")
    return 0


def explain(question: Question) -> dict[str, list[Verdict]]:
    """Return the verdicts by VM.

    Raises: APIServerAway, NotFound, Denied. Refused: the schedule has no retention. ValueError, OSError: the file is
    none. KeyError: there is no such time zone.
    """
    resources = Resources(Client(find_kubeconfig(question.kubeconfig), field_manager=names.FIELD_MANAGER_CONTROLLER))
    schedule = _from_file(question.file) if question.file else _parse(_read(resources, question))
    if schedule.spec.retention is None:
        raise Refused("InvalidSpec", f"Schedule {schedule.metadata.name} has no retention: every set stays.")
    backups = [VMBackup.parse(body) for body in resources.list(VMBACKUP, question.namespace)]
    children = [child for backup in backups if (child := child_of(backup)).schedule == schedule.metadata.name]
    locations = [VMBackupLocation.model_validate(body) for body in resources.list(LOCATION)]
    return judge_children(children, schedule.spec.retention, {at.metadata.name: at for at in locations})


def _read(resources: Resources, question: Question) -> object:
    return resources.get(SCHEDULE, question.schedule, question.namespace)


def _from_file(path: Path) -> VMBackupSchedule:
    try:
        body = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(body, dict) or body.get("kind") != "VMBackupSchedule":
        raise ValueError(f"{path} holds no VMBackupSchedule")
    return _parse(body)


def _parse(body: object) -> VMBackupSchedule:
    try:
        return VMBackupSchedule.parse(body)
    except ValidationError as error:
        found = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, found['loc']))}: {found['msg']}") from None


def _record(vm: str, verdict: Verdict) -> dict[str, object]:
    return {
        "vm": vm,
        "name": verdict.set.name,
        "time": rfc3339(verdict.set.at),
        "keep": verdict.keep,
        "reasons": verdict.reasons,
    }
