"""Restores on real ports without a cluster: in the test, or as a process that dies when it is told to.

A moment is named `in <Phase>` (its record is written, nothing is done yet), `before <Step>` or `after <Step>`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.libvirt.rig import NAMESPACE, TESTS, Rig
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.core.facts import Wishes
from vmbackup.core.ownership import Claim
from vmbackup.core.restore_facts import RestoreDomainStep, RestoreFacts, RestorePorts, RestoreStoreStep
from vmbackup.core.restore_plan import RestoreRequest, plan_restore
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.hypervisor.restored_domains import RestoredDomains
from vmbackup.restoring import drive
from vmbackup.store.clock import SteadyClock
from vmbackup.store.finding import find_sets
from vmbackup.store.restore_directories import RestoreDirectories
from vmbackup.store.restore_journal import RestoreRecords

Hook = Callable[[str, RestoreRun], None]


def no_hook(_moment: str, _run: RestoreRun) -> None:
    pass


class _Domains(RestoredDomains):
    hook: Hook = staticmethod(no_hook)

    def perform(self, run: RestoreRun, step: RestoreDomainStep) -> None:
        self.hook(f"before {type(step).__name__}", run)
        super().perform(run, step)
        self.hook(f"after {type(step).__name__}", run)


class _Directories(RestoreDirectories):
    hook: Hook = staticmethod(no_hook)

    def perform(self, run: RestoreRun, step: RestoreStoreStep) -> None:
        self.hook(f"before {type(step).__name__}", run)
        super().perform(run, step)
        self.hook(f"after {type(step).__name__}", run)


class Ledger:
    """Keeps what was told; `wish` is what the user wants."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.reports: list[tuple[RestoreRun, RestoreFacts]] = []
        self.wish = Wishes()

    def report(self, run: RestoreRun, facts: RestoreFacts) -> None:
        self.reports.append((run, facts))
        self.hook(f"in {run.phase}", run)

    def wishes(self, _run: RestoreRun) -> Wishes:
        return self.wish


class RestoreEngine:
    """What an agent has of a node for restores, and one worker."""

    def __init__(self, uri: str, state: Path, *, hook: Hook = no_hook) -> None:
        self.woken = threading.Event()
        self.hypervisor = Libvirtd(uri)
        self.store = _Directories(wake=self.woken.set)
        self.domains = _Domains(uri, self.store.set_xml)
        self.journal = RestoreRecords(state)
        self.ledger = Ledger(hook)
        self.store.hook = self.domains.hook = hook
        clock = SteadyClock(state, busy=bool(self.journal.runs()))
        self._ports = RestorePorts(self.domains, self.store, self.journal, self.ledger, clock)

    def begin(self, rig: Rig, vm: str, target: dict[str, Any], **spec: Any) -> RestoreRun:
        """Plan and write the first record. Raises: Refused: nothing was touched."""
        found = find_sets(str(rig.location), NAMESPACE, vm)[0]
        body = {"source": {"set": {"location": "local", "vm": vm}}, "target": target, **spec}
        request = RestoreRequest(
            uid=str(uuid.uuid4()),
            namespace=NAMESPACE,
            name="back",
            spec=VMRestoreSpec.model_validate(body),
            location="local",
            location_path=str(rig.location),
            images_path=str(images(rig)),
            started_at=time.time(),
            node="here",
            min_free="1Mi",
        )
        claims = [Claim(*known) for known in self.hypervisor.vms()]
        domain = self.hypervisor.find(f"{NAMESPACE}_{vm}") if "in_place" in target else None
        run = plan_restore(request, found, claims, domain)
        self.journal.record(run)
        return run

    def finish(self, run: RestoreRun) -> RestoreRun:
        """Take turns until the restore is over; the record of its end stays in the journal."""
        with self.hypervisor.watch(lambda _uuid: self.woken.set()):
            return drive(self._ports, run, self._pause)

    def _pause(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


def images(rig: Rig) -> Path:
    """Return the node's directory for restored images."""
    directory = rig.place / "images"
    directory.mkdir(mode=0o755, exist_ok=True)
    return directory


def restore(rig: Rig, vm: str, target: dict[str, Any], *, hook: Hook = no_hook, **spec: Any) -> RestoreRun:
    """Restore the VM's newest set and return the run at its end."""
    engine = RestoreEngine(rig.daemon.uri, rig.state, hook=hook)
    return engine.finish(engine.begin(rig, vm, target, **spec))


def process(rig: Rig, death: str = "") -> subprocess.Popen[bytes]:
    """Start a process that finishes what is in the journal; it dies at the moment `death`."""
    script = TESTS / "integration/libvirt/restores.py"
    command = [sys.executable, "-P", str(script), rig.daemon.uri, str(rig.state), death]
    log = (rig.place / "restore.log").open("ab")
    child = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'dev'}"}, stdout=log, stderr=log
    )
    log.close()
    rig._processes.append(child)
    return child


def main(uri: str, state: str, death: str) -> None:
    """Finish every restore of the journal, as an agent does that was just started; die by SIGKILL at a moment."""

    def die(moment: str, _run: RestoreRun) -> None:
        if moment == death:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = RestoreEngine(uri, Path(state), hook=die)
    for run in engine.journal.runs():
        engine.finish(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
