"""`vmbackup-operator restore`: brings a set back on one host, without a cluster: when Kubernetes is down, too.

The request is a VMRestore file, the location a directory, the status a file, Ctrl-C a cancel.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.restore import RestoreKind, VMRestore, VMRestoreStatus, kind_of
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.facts import DomainFacts, Wishes
from vmbackup.core.kstatus import Stamp
from vmbackup.core.ownership import Claim, hosted
from vmbackup.core.restore_facts import RestoreFacts, RestorePorts
from vmbackup.core.restore_plan import RestoreRequest, SetFacts, choose_set, plan_restore
from vmbackup.core.restore_report import refused, restore_status
from vmbackup.errors import NotYet, Refused, VMBackupError
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.hypervisor.restored_domains import RestoredDomains
from vmbackup.restoring import drive
from vmbackup.store.clock import SteadyClock
from vmbackup.store.finding import find_named, find_sets
from vmbackup.store.journal import NodeJournal
from vmbackup.store.request_files import read_document
from vmbackup.store.restore_directories import RestoreDirectories
from vmbackup.store.restore_journal import RestoreRecords
from vmbackup.store.status_files import write_status


@dataclass(frozen=True)
class Settings:
    """What the command line says. Paths are absolute."""

    request: Path
    location: Path
    images: Path
    connect: str
    state: Path
    min_free: str


class StatusFile:
    """The RestoreLedger port: one YAML file per restore; `listen(key, status)` hears of every change."""

    def __init__(
        self, directory: Path, now: Callable[[], float], listen: Callable[[str, VMRestoreStatus], None]
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._now, self._listen = directory, now, listen
        self._statuses: dict[str, VMRestoreStatus] = {}
        self.cancelled = threading.Event()

    def status(self, key: str) -> VMRestoreStatus:
        return self._statuses.get(key, VMRestoreStatus())

    def report(self, run: RestoreRun, facts: RestoreFacts) -> None:
        self.put(run.key, restore_status(run, facts, self.status(run.key), self._now(), generation=1))

    def wishes(self, run: RestoreRun) -> Wishes:
        return Wishes(cancel=self.cancelled.is_set())

    def put(self, key: str, status: VMRestoreStatus) -> None:
        if status == self._statuses.get(key):
            return
        self._statuses[key] = status
        write_status(self._directory, "restore-", "VMRestore", key, status)
        self._listen(key, status)


class StandaloneRestore:
    """One restore on this host, from request to outcome."""

    def __init__(self, settings: Settings, restore: VMRestore, listen: Callable[[str, VMRestoreStatus], None]) -> None:
        self._settings, self._restore = settings, restore
        self._woken = threading.Event()
        self._hypervisor = Libvirtd(settings.connect)
        self._locks = NodeJournal(settings.state)
        self._journal = RestoreRecords(settings.state)
        self._clock = SteadyClock(settings.state, busy=bool(self._journal.runs() or self._locks.runs()))
        store = RestoreDirectories(wake=self._woken.set)
        self.ledger = StatusFile(settings.state / "status", self._clock.now, listen)
        domains = RestoredDomains(settings.connect, store.set_xml)
        self._ports = RestorePorts(domains, store, self._journal, self.ledger, self._clock)

    @property
    def status(self) -> VMRestoreStatus:
        return self.ledger.status(self._restore.key)

    def cancel(self) -> None:
        """Remove what was made and end; never blocks."""
        self.ledger.cancelled.set()
        self._woken.set()

    def run(self) -> Outcome:
        """Finish what an earlier call left behind, then do the restore."""
        with ExitStack() as stack:
            if kind_of(self._restore.spec) is not RestoreKind.DISKS:
                stack.enter_context(self._hypervisor.watch(lambda _uuid: self._woken.set()))
            for left in self._journal.runs():
                self._drive(left)
            try:
                return self._drive(self._plan()).outcome or Outcome.FAILED
            except VMBackupError as refusal:
                stamp = Stamp(self._clock.now(), 1)
                self.ledger.put(self._restore.key, refused(self.status, refusal.reason, refusal.message, stamp))
                return self.status.outcome or Outcome.REFUSED

    def _drive(self, run: RestoreRun) -> RestoreRun:
        """Raises: NotYet: another process of ours works on the VM."""
        with self._locks.lock(run.domain_uuid or run.uid):
            self._journal.record(run)
            run = drive(self._ports, run, self._pause)
            self._journal.forget(run)
            return run

    def _plan(self) -> RestoreRun:
        """Raises: Refused: nothing was touched. NotYet: the daemon is away, or the VM is busy."""
        restore, settings = self._restore, self._settings
        found = self._find()
        claims = [] if kind_of(restore.spec) is RestoreKind.DISKS else [Claim(*vm) for vm in self._hypervisor.vms()]
        domain: DomainFacts | None = None
        if kind_of(restore.spec) is RestoreKind.IN_PLACE:
            domain = self._own(found.manifest.vm, claims)
        request = RestoreRequest(
            uid=restore.metadata.uid,
            namespace=restore.metadata.namespace,
            name=restore.metadata.name,
            spec=restore.spec,
            location=restore.spec.source.set.location if restore.spec.source.set else "",
            location_path=str(settings.location),
            images_path=str(settings.images),
            started_at=self._clock.now(),
            node=os.uname().nodename,
            min_free=settings.min_free,
            default_namespace=restore.metadata.namespace,
        )
        return plan_restore(request, found, claims, domain)

    def _find(self) -> SetFacts:
        source, namespace = self._restore.spec.source, self._restore.metadata.namespace
        location = str(self._settings.location)
        try:
            if source.set is not None:
                return choose_set(find_sets(location, namespace, source.set.vm), source.set.at_or_before, source.set.vm)
            assert source.backup is not None, "the schema wants one of both"
            sets = find_named(location, namespace, source.backup)
        except OSError as error:
            raise Refused(Reason.LOCATION_UNUSABLE, f"{location}: {error.strerror or error}") from error
        if not sets:
            raise Refused(
                Reason.SET_NOT_FOUND, f"{location} has no set of a VMBackup {source.backup} of namespace {namespace}."
            )
        return choose_set(sets, None, sets[0].manifest.vm)

    def _own(self, vm: str, claims: list[Claim]) -> DomainFacts:
        namespace = self._restore.metadata.namespace
        for hosted_vm in hosted(claims, namespace).vms:
            if (hosted_vm.namespace, hosted_vm.name) == (namespace, vm):
                return self._hypervisor.find(hosted_vm.domain)
        raise Refused(Reason.VM_NOT_FOUND, f"namespace {namespace} has no VM {vm} here: restore it with newDomain.")

    def _pause(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()


def sentence(status: VMRestoreStatus) -> str:
    """Return the status as one plain line, the percent in steps of ten so that a log stays short."""
    succeeded = find(status.conditions, ConditionType.SUCCEEDED)
    message = succeeded.message if succeeded else ""
    if status.outcome is not None and status.phase == "Done":
        return f"{status.outcome}: {message}"
    percent = f" {status.progress.percent // 10 * 10}%" if status.progress and status.progress.percent else ""
    return f"{status.phase}{percent}: {message}"


def main(settings: Settings, console: Console) -> int:
    """Run one restore; return the exit code: 0 succeeded, 1 failed, 2 refused, 3 cancelled, 4 stranded."""
    try:
        restore = read_document(settings.request, VMRestore)
    except Refused as refusal:
        console.print(f"Refused: {refusal.message}", markup=False)
        return Outcome.REFUSED.exit_code
    told = ""

    def tell(key: str, status: VMRestoreStatus) -> None:
        nonlocal told
        line = f"{key}: {sentence(status)}"
        if line != told:
            told = line
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    try:
        standalone = StandaloneRestore(settings, restore, tell)
    except OSError as error:
        console.print(f"Refused: the state directory {settings.state} cannot be used: {error}", markup=False)
        return Outcome.REFUSED.exit_code
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: standalone.cancel())
    try:
        outcome = standalone.run()
    except NotYet as busy:
        console.print(f"Refused: {busy.message}", markup=False)
        return Outcome.REFUSED.exit_code
    if outcome is Outcome.SUCCEEDED:
        for disk in standalone.status.disks:
            if disk.path:
                console.print(f"{disk.name}: {disk.path}", markup=False, highlight=False, soft_wrap=True)
    return outcome.exit_code
