"""`vmbackup-operator watch`: the progress of VMBackups on a terminal, until all are over."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vmbackup.api import names
from vmbackup.api.vmbackup import Outcome, VMBackup
from vmbackup.cluster.client import Client, find_kubeconfig
from vmbackup.cluster.errors import APIServerAway, Denied, NotFound
from vmbackup.cluster.resources import VMBACKUP, Resources
from vmbackup.display import Display

LOOK_SECONDS = 0.25
TIMED_OUT = 5
INTERRUPTED = 130  # as a shell reports a program that ended by Ctrl-C


def watch(console: Console, kubeconfig: Path | None, namespace: str, wanted: Sequence[str], timeout: float) -> int:
    """Show the named backups; return 0 when all succeeded, 1 when one did not, 5 when they are not over in time.

    Nothing is changed: Ctrl-C ends the watching, not the backups.
    """
    try:
        resources = Resources(_client(kubeconfig))
        with Display(console) as display:
            return _follow(resources, display, namespace, wanted, timeout)
    except TimeoutError:
        _say(console, f"not over after {timeout:.0f} s; the backups go on")
        return TIMED_OUT
    except KeyboardInterrupt:
        _say(console, "no longer watched; the backups go on")
        return INTERRUPTED
    except NotFound:
        _say(console, f"namespace {namespace} has not all of: {', '.join(wanted)}; see kubectl get vmb -n {namespace}")
        return 1
    except (Denied, FileNotFoundError) as error:
        _say(console, str(error))
        return 1


def _follow(resources: Resources, display: Display, namespace: str, wanted: Sequence[str], timeout: float) -> int:
    """Show the backups until all are over; return the exit code.

    Raises: TimeoutError: they are not over in time. NotFound: there is no such backup. Denied.
    """
    backups: dict[str, VMBackup] = {}
    deadline = time.monotonic() + timeout
    while not all(name in backups and backups[name].finished for name in wanted):
        if time.monotonic() > deadline:
            raise TimeoutError
        for name in wanted:
            try:
                backups[name] = VMBackup.parse(resources.get(VMBACKUP, name, namespace))
            except APIServerAway:
                continue  # what was seen last is shown on
            display.show(name, backups[name].status)
        time.sleep(LOOK_SECONDS)
    return 0 if all(backup.status.outcome is Outcome.SUCCEEDED for backup in backups.values()) else 1


def _client(kubeconfig: Path | None) -> Client:
    """Raises: FileNotFoundError: there is no usable access to a cluster."""
    from kubernetes.config import ConfigException  # noqa: PLC0415 - late: it takes most of a second

    try:
        return Client(find_kubeconfig(kubeconfig), field_manager=names.FIELD_MANAGER_CONTROLLER)
    except ConfigException as error:
        raise FileNotFoundError(f"no cluster to ask ({error}): set KUBECONFIG or give --kubeconfig") from error


def _say(console: Console, words: str) -> None:
    console.print(words, markup=False, highlight=False, soft_wrap=True)
