"""Sets that go with their VMBackups: recorded on this node first, then told, then removed as soon as it works.

One thread per location, so that a file server that does not answer holds up nobody but itself.
"""

import logging
import threading
import time
from collections.abc import Callable

from pydantic import ValidationError

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, Reason
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.removal import Removal
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import LOCATION, VMBACKUP, Resources
from vmbackup.core.imported import set_uid
from vmbackup.core.kstatus import Stamp, Truth, state
from vmbackup.core.set_removal import doomed
from vmbackup.errors import NotYet, Refused, VMBackupError
from vmbackup.store.removal_records import RemovalRecords
from vmbackup.store.removing import remove_set
from vmbackup.store.space import words_of

AGAIN_SECONDS = 30.0  # for what could not be removed
ANSWER_SECONDS = 5.0  # then the location is called silent
GIVE_UP_SECONDS = 30 * 86400.0  # a set that cannot be found for so long is no longer looked for

log = logging.getLogger(__name__)


class Removals:
    """Takes up deleted VMBackups of this node and what a former agent of it has recorded."""

    def __init__(
        self, resources: Resources, records: RemovalRecords, node: str, *, now: Callable[[], float] = time.time
    ) -> None:
        self._resources, self._records, self._node, self._now = resources, records, node, now
        self._wanted: dict[str, VMBackup] = {}
        self._working: dict[str, threading.Thread] = {}
        self._told: dict[str, str] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="removals", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def heard(self, backup: VMBackup, *, gone: bool) -> None:
        """Take note of a backup as the watch shows it. Never blocks."""
        fate = doomed(backup)
        due = backup.finished and fate.wanted and fate.held and fate.deleted_at is not None and not fate.over
        with self._lock:
            if gone or not due:
                self._wanted.pop(backup.metadata.uid, None)
                return
            known = backup.metadata.uid in self._wanted
            self._wanted[backup.metadata.uid] = backup
        if not known:
            self._woken.set()

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                log.exception("removals: unforeseen fault")
            self._woken.wait(AGAIN_SECONDS)
            self._woken.clear()

    def look(self) -> None:
        """Record what is new, then try everything that is recorded."""
        with self._lock:
            wanted = dict(self._wanted)
        recorded = {removal.uid for removal in self._records.removals()}
        for uid, backup in wanted.items():
            if uid not in recorded:
                self._take_up(backup)
        by_path: dict[str, list[Removal]] = {}
        for removal in self._records.removals():
            by_path.setdefault(removal.location_path, []).append(removal)
        for path, removals in by_path.items():
            self._work(path, removals)

    def _take_up(self, backup: VMBackup) -> None:
        """Record a removal. The path is the administrator's; everything else is said by the set itself."""
        try:
            location = VMBackupLocation.model_validate(self._resources.get(LOCATION, backup.spec.location))
            by = backup.metadata.annotations.get(names.ANNOTATION_REMOVED_BY, "")
            self._records.record(
                Removal(
                    uid=backup.metadata.uid,
                    set_uid=set_uid(backup),
                    namespace=backup.metadata.namespace,
                    name=backup.metadata.name,
                    vm=backup.spec.source.name,
                    location=backup.spec.location,
                    location_path=location.spec.directory.path,
                    spare_last=by.startswith(names.RETENTION_OF),
                    since=self._now(),
                )
            )
            log.info("%s: its set is to be removed from location %s", backup.key, backup.spec.location)
        except NotFound:
            log.warning("%s: location %s is gone: its set cannot be found", backup.key, backup.spec.location)
        except ValidationError as error:
            log.warning("%s: location %s cannot be read: %s", backup.key, backup.spec.location, error)
        except VMBackupError as error:
            log.warning("%s: the removal of its set is not recorded yet: %s", backup.key, error.message)

    def _work(self, path: str, removals: list[Removal]) -> None:
        thread = self._working.get(path)
        if thread is None or not thread.is_alive():
            thread = threading.Thread(target=self._remove_all, args=(removals,), name=f"remove {path}", daemon=True)
            self._working[path] = thread
            thread.start()
        thread.join(ANSWER_SECONDS)
        if thread.is_alive():
            silent = f"{path} is slow or does not answer; the removal is recorded on node {self._node} and goes on."
            for removal in self._records.removals():
                if removal.location_path == path:
                    self._tell(removal, "False", Reason.REMOVAL_RECORDED, silent)

    def _remove_all(self, removals: list[Removal]) -> None:
        for removal in removals:
            try:
                self._remove(removal)
            except VMBackupError as error:
                log.warning("%s: %s", removal.key, error.message)
            except Exception:
                log.exception("%s: unforeseen fault in the removal of its set", removal.key)

    def _remove(self, removal: Removal) -> None:
        try:
            there = remove_set(removal)
        except Refused as refusal:
            if refusal.reason == Reason.SET_KEPT:
                self._end(removal, "False", Reason.SET_KEPT, refusal.message)
            else:
                self._wait(removal, refusal)
        except NotYet as wait:
            if wait.reason == Reason.SET_NOT_FOUND and self._now() - removal.since > GIVE_UP_SECONDS:
                self._end(removal, "False", Reason.SET_KEPT, wait.message)
            else:
                self._wait(removal, wait)
        except VMBackupError as error:
            self._wait(removal, error)
        except OSError as error:
            self._wait(removal, NotYet(Reason.STORE_ERROR, words_of(removal.location_path, error)))
        else:
            words = "the set was removed" if there else "there was no set any more"
            self._end(removal, "True", Reason.REMOVED, f"{words} in location {removal.location}")

    def _end(self, removal: Removal, truth: Truth, reason: Reason, message: str) -> None:
        """The record is kept until the end was told, or nobody is left to be told. Raises: VMBackupError: not told."""
        log.info("%s: %s: %s", removal.key, reason, message)
        self._tell(removal, truth, reason, message)
        self._records.forget(removal.uid)
        self._told.pop(removal.uid, None)
        with self._lock:
            self._wanted.pop(removal.uid, None)

    def _wait(self, removal: Removal, why: VMBackupError) -> None:
        message = f"{why.message} The removal is recorded on node {self._node}."
        if self._told.get(removal.uid) != message:
            log.warning("%s: its set is not removed yet: %s", removal.key, message)
        self._tell(removal, "False", Reason.REMOVAL_RECORDED, message)

    def _tell(self, removal: Removal, truth: Truth, reason: Reason, message: str) -> None:
        """Write the condition, unless it was said before. Raises: VMBackupError: the API server did not take it."""
        if self._told.get(removal.uid) == message:
            return
        try:
            body = self._resources.get(VMBACKUP, removal.name, removal.namespace)
            backup = VMBackup.parse(body)
            if backup.metadata.uid == removal.uid:
                stamp = Stamp(self._now(), backup.metadata.generation)
                conditions = state(backup.status.conditions, ConditionType.SET_REMOVED, truth, reason, message, stamp)
                status = backup.status.model_copy(update={"conditions": conditions})
                self._resources.patch_status(VMBACKUP, body, status)
        except NotFound:
            log.debug("%s: the VMBackup is gone; nobody is left to be told", removal.key)
        self._told[removal.uid] = message
