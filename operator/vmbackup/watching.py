"""`vmbackup-operator watch`: the progress of VMBackups on a terminal, until all are over."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vmbackup.api import names
from vmbackup.api.vmbackup import Outcome, VMBackup
from vmbackup.cluster.client import Client, find_kubeconfig
from vmbackup.cluster.errors import APIServerAway, NotFound
from vmbackup.cluster.resources import VMBACKUP, Resources
from vmbackup.display import Display

LOOK_SECONDS = 0.25
TIMED_OUT = 5


def watch(console: Console, kubeconfig: Path | None, namespace: str, wanted: Sequence[str], timeout: float) -> int:
    """Show the named backups; return 0 when all succeeded, 1 when one did not, 5 when they are not over in time."""
    resources = Resources(Client(find_kubeconfig(kubeconfig), field_manager=names.FIELD_MANAGER_CONTROLLER))
    backups: dict[str, VMBackup] = {}
    deadline = time.monotonic() + timeout
    with Display(console) as display:
        while not _over(backups, wanted):
            if time.monotonic() > deadline:
                console.print(f"not over after {timeout:.0f} s; the backups go on")
                return TIMED_OUT
            for name in wanted:
                try:
                    backups[name] = VMBackup.parse(resources.get(VMBACKUP, name, namespace))
                except NotFound:
                    console.print(f"there is no VMBackup {namespace}/{name}", markup=False)
                    return 1
                except APIServerAway:
                    continue
                display.show(name, backups[name].status)
            time.sleep(LOOK_SECONDS)
    return 0 if all(backup.status.outcome is Outcome.SUCCEEDED for backup in backups.values()) else 1


def _over(backups: dict[str, VMBackup], wanted: Sequence[str]) -> bool:
    return all(name in backups and backups[name].finished for name in wanted)
