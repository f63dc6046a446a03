"""`vmbackup-operator run`: the same engine on one host, without a cluster.

The request is a VMBackup file, the location a directory, the status a file, Ctrl-C a cancel.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome, Phase, SourceKind, VMBackup, VMBackupStatus
from vmbackup.core.facts import DomainFacts
from vmbackup.core.kstatus import Stamp
from vmbackup.core.ownership import Claim, hosted
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.core.report import failed, refused, waiting
from vmbackup.display import Display
from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.store.clock import SteadyClock
from vmbackup.store.directories import Directories
from vmbackup.store.journal import NodeJournal
from vmbackup.store.request_files import read_document
from vmbackup.store.status_files import StatusFiles
from vmbackup.tick import Turn, sweep, tick

LOOK_AGAIN_SECONDS = 2.0
SIGNAL_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """What the command line says. Paths are absolute."""

    request: Path
    location: Path
    connect: str
    state: Path
    min_free: str
    allow_monitor: bool


def read_request(path: Path) -> VMBackup:
    """Read a VMBackup from a file. Raises: Refused: as read_document, and for a source that only the cluster knows."""
    backup = read_document(path, VMBackup)
    if backup.spec.source.kind is not SourceKind.DOMAIN:
        words = "is found through the cluster only; name a domain, or apply the VMBackup there."
        raise Refused(Reason.INVALID_SPEC, f"{path}: a {backup.spec.source.kind} {words}")
    return backup


class Standalone:
    """One backup on this host, from request to outcome."""

    def __init__(self, settings: Settings, backup: VMBackup, listen: Callable[[str, VMBackupStatus], None]) -> None:
        self._settings, self._backup = settings, backup
        self._woken = threading.Event()
        self._hypervisor = Libvirtd(settings.connect, may_use_monitor=settings.allow_monitor)
        self._store = Directories(domain_xml=self._hypervisor.domain_xml, wake=self._woken.set)
        self._journal = NodeJournal(settings.state)
        self._clock = SteadyClock(settings.state, busy=bool(self._journal.runs()))
        self.ledger = StatusFiles(settings.state / "status", self._clock, listen)
        self._ports = Ports(self._hypervisor, self._store, self._journal, self.ledger, self._clock)

    @property
    def status(self) -> VMBackupStatus:
        """Return what was told last of this backup."""
        return self.ledger.status(self._backup.key)

    def cancel(self) -> None:
        """Take the VM home and end; never blocks."""
        self.ledger.cancel()
        self._woken.set()

    def run(self) -> Outcome:
        """Finish what an earlier call left behind, then do the backup."""
        with self._hypervisor.watch(lambda _uuid: self._woken.set()):
            try:
                for left in self._journal.runs():
                    self._finish(left)
                return self._begin().outcome or Outcome.FAILED
            except Refused as refusal:
                self._tell(refused(self.status, refusal.reason, refusal.message, self._stamp()))
                return self.status.outcome or Outcome.REFUSED
            except Failed as full:
                message = f"{full.message}. Call again when that is mended: what is left is finished first."
                self._tell(failed(self.status, full.reason, message, self._stamp()))
                return Outcome.FAILED

    def _finish(self, left: Run) -> None:
        """Finish what an earlier call left behind, unless another process of ours works on it."""
        with suppress(NotYet), self._journal.lock(left.domain_uuid):
            for run in self._journal.runs():  # read again: it may be over since
                if run.uid == left.uid:
                    self._drive(run)

    def _drive(self, run: Run) -> Run:
        """Take turns until the run is over.

        Raises: Failed: the journal cannot be written, and nobody waits for that any more. The VM is at home; what is
            left, the next call finishes from the record as it was.
        """
        turn = Turn(run)
        while turn.wait_seconds is not None:
            self._pause(turn.wait_seconds)
            turn = tick(self._ports, turn)
            if turn.held is not None and self._may_end(turn.run):
                raise turn.held
        run = turn.run
        if not run.debris or sweep(self._ports, run):
            self._journal.forget(run)
        return run

    def _may_end(self, run: Run) -> bool:
        late = self.ledger.cancelled or self._clock.now() > run.deadline_at
        return late and not (run.on_overlay or run.maybe_frozen)

    def _begin(self) -> Run:
        """Plan and run, alone on the VM.

        Raises: Refused: nothing was touched. Failed: the journal cannot be written.
        """
        started_at = self._clock.now()
        while True:
            try:
                facts = self._hypervisor.find(self._domain())
                with self._journal.lock(facts.uuid):
                    run = self._plan(facts, started_at)
                    self._journal.record(run)
                    return self._drive(run)
            except NotYet as reason:
                self._wait(reason, started_at)

    def _plan(self, facts: DomainFacts, started_at: float) -> Run:
        backup = self._backup
        request = Request(
            uid=backup.metadata.uid,
            namespace=backup.metadata.namespace,
            name=backup.metadata.name,
            spec=backup.spec,
            domain=facts.name,
            location_path=str(self._settings.location),
            overlay_directory=str(self._settings.state / "overlays"),
            started_at=started_at,
            min_free=self._settings.min_free,
        )
        return plan(request, facts, self._hypervisor.host(), self._clock.now())

    def _wait(self, reason: NotYet, started_at: float) -> None:
        """Raises: Refused: cancelled, or the deadline is over."""
        if self.ledger.cancelled:
            raise Refused(Reason.CANCELLED, "cancelled before it began")
        if self._clock.now() - started_at > self._backup.spec.deadline_seconds:
            raise Refused(Reason.DEADLINE_EXCEEDED, f"not begun before the deadline: {reason.message}")
        self._tell(waiting(self.status, reason.reason, reason.message, self._stamp()))
        self._pause(LOOK_AGAIN_SECONDS)

    def _domain(self) -> str:
        """Return the domain of the VM that the request names. Raises: NotYet. Refused: there is none."""
        metadata, source = self._backup.metadata, self._backup.spec.source
        claims = [Claim(*vm) for vm in self._hypervisor.vms()]
        for vm in hosted(claims, metadata.namespace).vms:
            if vm.name == source.name and vm.namespace == metadata.namespace:
                return vm.domain
        known = ", ".join(sorted(claim.domain for claim in claims)) or "none"
        raise Refused(
            Reason.VM_NOT_FOUND, f"namespace {metadata.namespace} has no VM {source.name}; domains here: {known}."
        )

    def _tell(self, status: VMBackupStatus) -> None:
        self.ledger.put(self._backup.key, status)

    def _stamp(self) -> Stamp:
        return Stamp(self._clock.now(), 1)

    def _pause(self, seconds: float) -> None:
        """Wait, in short turns: a signal that the kernel gave to another thread cannot end a wait of this one."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._woken.wait(min(left, SIGNAL_SECONDS)):
            pass
        self._woken.clear()


def main(settings: Settings, console: Console) -> int:
    """Run one backup; return the exit code: 0 succeeded, 1 failed, 2 refused, 3 cancelled, 4 stranded.

    A disk too full for the journal is 1, a state directory that cannot be used 2.
    """
    try:
        backup = read_request(settings.request)
    except Refused as refusal:
        console.print(f"Refused: {refusal.message}", markup=False)
        return Outcome.REFUSED.exit_code
    with Display(console) as display:
        try:
            standalone = Standalone(settings, backup, display.show)
        except OSError as error:
            console.print(f"Refused: the state directory {settings.state} cannot be used: {error}", markup=False)
            return Outcome.REFUSED.exit_code
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, lambda *_: standalone.cancel())
        outcome = standalone.run()
    status = standalone.status
    if status.phase is Phase.DONE and status.set:
        console.print(f"The set: {settings.location / status.set}", markup=False, highlight=False, soft_wrap=True)
    return outcome.exit_code
