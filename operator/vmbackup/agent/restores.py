"""The restores of this node: one thread each, from the claim to the told end.

Nothing is begun without the API server; what is begun goes on without it, from the node journal.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from vmbackup.agent.restore_claims import Place, RestoreClaims
from vmbackup.agent.restore_tidings import EventfulRestoreLedger
from vmbackup.api.conditions import Reason
from vmbackup.api.restore import VMRestore
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import Denied, NotFound
from vmbackup.cluster.events import Recorder
from vmbackup.cluster.resources import Resources
from vmbackup.core.facts import Wishes
from vmbackup.core.ports import Clock
from vmbackup.core.restore_facts import RestoreFacts, RestoreFiles, RestorePorts
from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.hypervisor.restored_domains import RestoredDomains
from vmbackup.restoring import drive
from vmbackup.store.journal import NodeJournal
from vmbackup.store.restore_directories import RestoreDirectories
from vmbackup.store.restore_journal import RestoreRecords

LOOK_AGAIN_SECONDS = 2.0
FLUSH_SECONDS = 30.0
FAULT_REST_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass
class Served:
    """One restore that a thread works on."""

    woken: threading.Event = field(default_factory=threading.Event)

    def pause(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


class Restores:
    """Takes up what is bound to this node, and what a former agent of this node left unfinished."""

    def __init__(
        self, resources: Resources, recorder: Recorder, journal: NodeJournal, clock: Clock, place: Place
    ) -> None:
        self._locks, self._clock = journal, clock
        self._records = RestoreRecords(place.state)
        self._claims = RestoreClaims(resources, Libvirtd(place.connect), place, now=clock.now)
        store = RestoreDirectories(wake=self.wake, now=clock.now)
        self.ledger = EventfulRestoreLedger(resources, place.executor, recorder, now=clock.now)
        domains = RestoredDomains(place.connect, store.set_xml)
        self._ports = RestorePorts(domains, store, self._records, self.ledger, clock)
        self._served: dict[str, Served] = {}
        self._lock = threading.Lock()

    def resume(self) -> None:
        """Go on with every restore of the journal, whether its VMRestore still exists or not."""
        for run in self._records.runs():
            log.info("%s: restore resumed in phase %s", run.key, run.phase)
            self._serve(run.uid, self._going_on(run))

    def hear(self, body: Body, gone: bool) -> None:
        """Take note of a restore as the watch shows it. Never blocks."""
        try:
            restore = VMRestore.parse(body)
        except ValidationError as error:
            log.error("VMRestore %s cannot be read and is left alone: %s", body["metadata"]["name"], error)  # noqa: TRY400 - no fault of ours
            return
        uid = restore.metadata.uid
        wishes = Wishes(restore.spec.cancel, gone or restore.metadata.deletion_timestamp is not None)
        self.ledger.heard(uid, wishes)
        with self._lock:
            served = self._served.get(uid)
        if served is not None:
            if wishes.cancel or wishes.deleted:
                served.woken.set()
        elif not gone and not restore.finished:
            self._serve(uid, lambda served: self._begin(served, restore))
        elif gone:
            self.ledger.forget(uid)

    def domains(self) -> set[str]:
        """Return the domains that restores work on: QEMU must not be asked for sizes while it brings their data."""
        return {run.domain for run in self._records.runs() if run.domain}

    def wake(self) -> None:
        """Look at everything now: libvirt or a copy has news."""
        with self._lock:
            for served in self._served.values():
                served.woken.set()

    def _serve(self, uid: str, work: Callable[[Served], None]) -> None:
        with self._lock:
            if uid in self._served:
                return
            served = self._served[uid] = Served()
        threading.Thread(target=self._guard, args=(uid, served, work), name=f"restore-{uid[:8]}", daemon=True).start()

    def _guard(self, uid: str, served: Served, work: Callable[[Served], None]) -> None:
        """Run the work of one thread; a fault of ours is logged and the work begun again from the journal."""
        while True:
            try:
                work(served)
                break
            except Exception:
                log.exception("restore %s: unforeseen fault, looked at again in %.0f s", uid, FAULT_REST_SECONDS)
                served.pause(FAULT_REST_SECONDS)
                left = next((run for run in self._records.runs() if run.uid == uid), None)
                work = self._going_on(left) if left is not None else work
        with self._lock:
            del self._served[uid]

    def _begin(self, served: Served, restore: VMRestore) -> None:
        """Claim the restore, plan it, bring it to its end. What stands in the way is told while it is waited for."""
        started_at: float | None = None
        try:
            while True:
                self._check(restore, started_at)
                try:
                    started_at = started_at or self._claims.claim(restore)
                    run = self._claims.plan(restore, started_at)
                    self._records.record(run)
                except (NotYet, Denied, Failed) as obstacle:
                    log.info("%s: waits: %s", restore.key, obstacle.message)
                    if started_at is not None:
                        self.ledger.waits(restore, obstacle)
                    served.pause(LOOK_AGAIN_SECONDS)
                else:
                    break
        except NotFound as gone:
            log.info("%s: not taken up: %s", restore.key, gone.message)
        except Refused as refusal:
            self._refuse(restore, refusal)
        else:
            self._finish(served, run)

    def _check(self, restore: VMRestore, started_at: float | None) -> None:
        """Raises: Refused: cancelled, deleted, or the deadline is over before anything was begun."""
        wishes = self.ledger.wished(restore.metadata.uid)
        if wishes.deleted or wishes.cancel:
            reason = Reason.DELETED if wishes.deleted else Reason.CANCELLED
            raise Refused(reason, "withdrawn before it began")
        seconds = restore.spec.deadline_seconds
        if started_at is not None and self._clock.now() > started_at + seconds:
            raise Refused(Reason.DEADLINE_EXCEEDED, f"not begun within {seconds} s of its start")

    def _refuse(self, restore: VMRestore, refusal: Refused) -> None:
        log.warning("%s: refused (%s): %s", restore.key, refusal.reason, refusal.message)
        self.ledger.refuses(restore, refusal)
        self.ledger.tell(restore.metadata, "Warning", refusal.reason, refusal.message)
        self._flush(restore.metadata.uid, restore.key)

    def _going_on(self, run: RestoreRun) -> Callable[[Served], None]:
        return lambda served: self._finish(served, run)

    def _finish(self, served: Served, run: RestoreRun) -> None:
        """Bring a restore to its end, alone on its VM, and tell it."""
        while True:
            try:
                with self._locks.lock(run.domain_uuid or run.uid):
                    run = drive(self._ports, run, served.pause)
                break
            except NotYet as busy:
                log.info("%s: waits: %s", run.key, busy.message)
                waiting = run.model_copy(update={"trouble": busy.message})
                self.ledger.report(waiting, RestoreFacts(RestoreFiles()))
                served.pause(LOOK_AGAIN_SECONDS)
        why = f": {run.failure.message}" if run.failure else f": {run.set_path}"
        log.info("%s: restore %s%s", run.key, run.outcome, why)
        self._flush(run.uid, run.key)
        self._records.forget(run)

    def _flush(self, uid: str, key: str) -> None:
        """The journal is kept until the end was told, or nobody is left to be told."""
        while not self.ledger.flush(uid, FLUSH_SECONDS):
            log.warning("%s: its end could not be told yet", key)
