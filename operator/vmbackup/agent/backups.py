"""The backups of this node: one thread each, from the claim to the told end.

Nothing is begun without the API server; what is begun is brought home without it, from the node journal.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from vmbackup.agent.claim import Claim, Claims
from vmbackup.agent.pods import LauncherPods, Place
from vmbackup.agent.served import Served, needs_us
from vmbackup.agent.tidings import EventfulLedger, QuietLedger
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, lock_name
from vmbackup.api.vmbackup import Outcome, Phase, SourceKind, VMBackup
from vmbackup.cluster.errors import Denied, NotFound
from vmbackup.core.facts import Wishes
from vmbackup.core.plan import plan
from vmbackup.core.ports import Ports
from vmbackup.core.rescue import LOST, adopted, rescue
from vmbackup.door.logs import also_about, of_backup, of_run
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError
from vmbackup.store.journal import NodeJournal
from vmbackup.tick import drive, sweep

LOOK_AGAIN_SECONDS = 2.0
FLUSH_SECONDS = 30.0
STOP_LOOK_SECONDS = 0.1
FAULT_REST_SECONDS = (1.0, 5.0, 30.0)

log = logging.getLogger(__name__)


class Backups:
    """Takes up what is bound to this node, and what a former agent of this node left unfinished."""

    def __init__(
        self, ports: Ports, journal: NodeJournal, ledger: EventfulLedger, claims: Claims, pods: LauncherPods
    ) -> None:
        self._ports, self._journal, self._ledger, self._claims, self._pods = ports, journal, ledger, claims, pods
        self._served: dict[str, Served] = {}
        self._lock = threading.Lock()

    def resume(self) -> None:
        """Go on with every run of the journal, whether its VMBackup still exists or not."""
        for run in self._journal.runs():
            log.info("%s: resumed in phase %s, attempt %d", run.key, run.phase, run.attempt, extra=of_run(run))
            self._serve(run.uid, self._going_on(run))

    def heard(self, backup: VMBackup, *, gone: bool) -> None:
        """Take note of a backup as the watch shows it. Never blocks."""
        wishes = Wishes(backup.spec.cancel, gone or backup.metadata.deletion_timestamp is not None)
        self._ledger.heard(backup.metadata.uid, wishes)
        with self._lock:
            served = self._served.get(backup.metadata.uid)
            if served is not None:
                served.latest, served.gone = (None, True) if gone else (backup, False)
        if served is not None:
            if wishes.cancel or wishes.deleted:
                served.woken.set()
        elif not gone and not backup.finished:
            self._serve(backup.metadata.uid, lambda served: self._begin(served, backup), backup)
        elif gone:
            self._ledger.forget(backup.metadata.uid)

    def rescue(self, without: Collection[str] = ()) -> None:
        """Look at every VM of the node for traces of ours that the journal does not know, and bring such VMs home.

        without: domains that are left alone, since restores work on them.
        Raises: NotYet: the hypervisor is away.
        """
        for stray in self._pods.strays(self._known, self._ports.clock.now()):
            log.warning("VM %s: %s", stray.domain, stray.failure.message if stray.failure else "", extra=of_run(stray))
            self._serve(stray.uid, self._going_on(stray))
        for vm in self._claims.running_vms():
            if vm in without:
                continue
            known = self._known()  # before the look too: what ends meanwhile is not lost
            try:
                domain = self._ports.hypervisor.find(vm)
            except VMBackupError as error:
                log.info("VM %s cannot be looked at now: %s", vm, error.message, extra={"vm": vm})
                continue
            run = rescue(domain, known | self._known(), self._ports.clock.now())
            if run is not None:
                log.warning("VM %s: %s", vm, run.failure.message if run.failure else "", extra=of_run(run))
                self._serve(run.uid, self._going_on(run))

    def sweep(self) -> None:
        """Remove unfinished sets of runs that are over: their location could not be used when they ended.

        Runs whose overlays a human had to decide about are forgotten when those are gone.
        """
        for run in self._journal.runs():
            with self._lock:
                busy = run.uid in self._served
            if run.debris and not busy and sweep(self._ports, run):
                words = "%s: its unfinished set %s/%s is removed"
                log.info(words, run.key, run.location_path, run.partial_path, extra=of_run(run))
                swept = run.model_copy(update={"debris": False})
                self._journal.record(swept)
                self._forget(swept)
            elif run.outcome is Outcome.STRANDED and run.phase is Phase.DONE and not busy:
                self._forget(run)

    def _known(self) -> set[str]:
        with self._lock:
            return {*self._served, *(run.uid for run in self._journal.runs())}

    def _left(self, uid: str) -> Run | None:
        return next((run for run in self._journal.runs() if run.uid == uid), None)

    def stop(self, grace_seconds: float) -> list[Run]:
        """Begin nothing more, thaw guests, take VMs off our overlays; return the runs that are left to the next agent.

        A push job goes on in QEMU without us, so it is left to run; overlays would grow unwatched.
        """
        self._ledger.stop()
        self.wake()
        deadline = time.monotonic() + grace_seconds
        time.sleep(STOP_LOOK_SECONDS)  # a move that was decided before is written down by then
        while any(needs_us(run) for run in self._journal.runs()):
            if time.monotonic() > deadline:
                break
            time.sleep(STOP_LOOK_SECONDS)
        return list(self._journal.runs())

    def wake(self) -> None:
        """Look at everything now: libvirt or a copy has news."""
        with self._lock:
            for served in self._served.values():
                served.woken.set()

    def busy(self) -> int:
        """Return how many backups are under way."""
        with self._lock:
            return len(self._served)

    def _serve(self, uid: str, work: Callable[[Served], None], latest: VMBackup | None = None) -> None:
        with self._lock:
            if uid in self._served:
                self._served[uid].latest = latest or self._served[uid].latest
                return
            if self._ledger.stopping:
                return
            served = self._served[uid] = Served(uid)
        threading.Thread(target=self._guard, args=(served, work), name=f"backup-{uid[:8]}", daemon=True).start()

    def _guard(self, served: Served, work: Callable[[Served], None]) -> None:
        """Run the work of one thread; a fault of ours is logged and the work begun again from the journal."""
        also_about({"uid": served.uid})
        faults = 0
        while True:
            try:
                work(served)
                break
            except Exception:
                rest = FAULT_REST_SECONDS[min(faults, len(FAULT_REST_SECONDS) - 1)]
                faults += 1
                log.exception("backup %s: unforeseen fault, looked at again in %.0f s", served.uid, rest)
                served.pause(rest)
                left = self._left(served.uid)
                if left is not None:
                    work = self._going_on(left)
        with self._lock:
            del self._served[served.uid]
        if served.gone:
            self._ledger.forget(served.uid)
        if served.nameless and served.latest is not None:
            self.heard(served.latest, gone=False)  # the VM is home: now the backup itself can go on

    def _begin(self, served: Served, backup: VMBackup) -> None:
        """Claim the backup, plan it, bring it to its end. What stands in the way is told while it is waited for."""
        also_about(of_backup(backup))
        claim: Claim | None = None
        obstacle: VMBackupError | None = None
        try:
            while True:
                self._check(backup, claim, obstacle)
                try:
                    claim = claim or self._claims.claim(backup)
                    run = self._do(served, backup, claim)
                # Denied: an API server that has just started knows no roles for a moment. Failed: a full journal.
                except (NotYet, Denied, Failed) as reason:
                    obstacle = reason
                    log.info("%s: waits: %s", backup.key, reason.message)
                    if claim is not None:
                        self._ledger.waits(backup, reason)
                    served.pause(LOOK_AGAIN_SECONDS)
                else:
                    break
        except NotFound as gone:
            log.info("%s: not taken up: %s", backup.key, gone.message)
        except Refused as refusal:
            self._refuse(backup, refusal)
        else:
            self._tell_end(run)

    def _do(self, served: Served, backup: VMBackup, claim: Claim) -> Run:
        """Plan and run, alone on the VM. Raises: NotYet, Refused: nothing was touched."""
        place = self._place(backup)
        domain = place.domain
        with self._journal.lock(lock_name(place.launcher, domain.uuid)):
            request = replace(self._claims.request(backup, domain.name, claim), launcher=place.launcher)
            known = {run.uid for run in self._journal.runs()}
            lost = rescue(domain, known, self._ports.clock.now(), place.launcher)
            if lost is not None and lost.uid == request.uid:
                run = adopted(lost, request)
                self._journal.record(run)
                return self._drive(served, run)
            run = plan(request, domain, place.hypervisor.host(), self._ports.clock.now())
            self._journal.record(run)
            return self._drive(served, run)

    def _place(self, backup: VMBackup) -> Place:
        """Return where the VM is. Raises: NotYet, Refused."""
        if backup.spec.source.kind is SourceKind.VMI:
            return self._pods.place(backup)
        return Place(self._ports.hypervisor, self._claims.domain(backup))

    def _check(self, backup: VMBackup, claim: Claim | None, obstacle: VMBackupError | None) -> None:
        """Raises: Refused: cancelled, deleted, or the deadline is over before anything was begun."""
        wishes = self._ledger.wished(backup.metadata.uid)
        if wishes.deleted:
            raise Refused(Reason.DELETED, "the VMBackup was deleted before it began")
        if wishes.cancel:
            raise Refused(Reason.CANCELLED, "cancelled by spec.cancel before it began")
        if claim is not None and self._ports.clock.now() > claim.started_at + backup.spec.deadline_seconds:
            why = f": {obstacle.message}" if obstacle else ""
            raise Refused(
                Reason.DEADLINE_EXCEEDED, f"not begun within {backup.spec.deadline_seconds} s of its start{why}"
            )

    def _refuse(self, backup: VMBackup, refusal: Refused) -> None:
        log.warning("%s: refused (%s): %s", backup.key, refusal.reason, refusal.message)
        self._ledger.refuses(backup, refusal)
        while not self._ledger.flush(backup.metadata.uid, FLUSH_SECONDS):
            log.warning("%s: its refusal could not be told yet", backup.key)

    def _going_on(self, run: Run) -> Callable[[Served], None]:
        return lambda served: self._finish(served, run)

    def _finish(self, served: Served, run: Run) -> None:
        """Bring a run of the journal home."""
        also_about(of_run(run))
        served.nameless = run.namespace == LOST
        while True:
            try:
                with self._journal.lock(run.lock_name):
                    left = self._left(run.uid)
                    if left is None and not served.nameless:
                        log.info("%s: another process has brought it to its end", run.key)
                        return
                    run = self._drive(served, left or run)
                break
            except NotYet as reason:
                log.warning("%s: %s", run.key, reason.message)
                served.pause(LOOK_AGAIN_SECONDS)
        if served.nameless:
            self._forget(run)
        else:
            self._tell_end(run)

    def _drive(self, served: Served, run: Run) -> Run:
        also_about(of_run(run))
        log.info("%s: %s of VM %s begins in phase %s (%s)", run.key, run.method, run.vm, run.phase, run.method_reason)
        run = self._drive_there(served, run)
        why = f": {run.failure.message}" if run.failure else f": {run.set_path}"
        log.info("%s: %s after %d attempt(s)%s", run.key, run.outcome, run.attempt, why)
        return run

    def _drive_there(self, served: Served, run: Run) -> Run:
        """Drive a run on the daemon that has its VM: the node's own, or that in a pod, whose events wake it then."""
        ledger = QuietLedger(self._ledger) if served.nameless else self._ledger
        if run.launcher is None:
            return drive(replace(self._ports, ledger=ledger), run, served.pause)
        daemon = self._pods.daemons.of(run.launcher)
        with daemon.watch(lambda _uuid: served.woken.set()):
            return drive(replace(self._ports, ledger=ledger, hypervisor=daemon), run, served.pause)

    def _tell_end(self, run: Run) -> None:
        """The journal is kept until the end was told, or nobody is left to be told."""
        while not self._ledger.flush(run.uid, FLUSH_SECONDS):
            log.warning("%s: its end could not be told yet", run.key)
        self._forget(run)

    def _forget(self, run: Run) -> None:
        """Drop the record of a run that is over, unless something of it is left.

        While an overlay awaits a human's decision its UID stays known: what it holds may be older than its base, and
        a rescue would merge it as soon as the VM was started on it.
        """
        undecided = run.outcome is Outcome.STRANDED and not run.covered and self._ports.store.observe(run).overlay_bytes
        if not run.debris and not undecided:
            self._journal.forget(run)
