"""The ledger of an agent: the status of its VMBackups, written by one thread that nothing waits for.

The latest report of a backup wins; it is sent at most every two seconds, at once when the phase or the outcome
changes, and again with growing rests while the API server is away. A backup whose resource is gone is not written.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Executor, Phase, VMBackup, VMBackupStatus
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import APIServerAway, Conflict, NotFound
from vmbackup.cluster.letter import Letter, Statement
from vmbackup.cluster.resources import VMBACKUP, Kind, Resources
from vmbackup.core.facts import Facts, Wishes
from vmbackup.core.kstatus import Stamp
from vmbackup.core.report import refused, status_of, waiting
from vmbackup.errors import Refused, VMBackupError

INTERVAL_SECONDS = 2.0
CONFLICTS_MAX = 5

log = logging.getLogger(__name__)


class StatusWriter:
    """Writes the statuses of one kind. `with StatusWriter(...)` runs its thread."""

    kind: Kind = VMBACKUP
    parse: Callable[[Any], Any] = VMBackupStatus.model_validate

    def __init__(
        self,
        resources: Resources,
        executor: Executor,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._resources = resources
        self._executor = executor
        self._interval_seconds = interval_seconds
        self._now = now
        self._letters: dict[str, Letter] = {}
        self._wishes: dict[str, Wishes] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._writer = threading.Thread(target=self._write, name="status-writer", daemon=True)

    def wished(self, uid: str) -> Wishes:
        """Return what the user wants of a backup that has no run yet."""
        return self._wishes.get(uid, Wishes())

    def heard(self, uid: str, wishes: Wishes) -> None:
        """Note what the watch said of a backup. A cancellation and a deletion cannot be taken back."""
        with self._changed:
            before = self._wishes.get(uid, Wishes())
            self._wishes[uid] = Wishes(before.cancel or wishes.cancel, before.deleted or wishes.deleted)

    def flush(self, uid: str, timeout_seconds: float) -> bool:
        """Wait until the end of a backup is told; True when it is, or when nobody is left to be told.

        False: not yet; call again. Nothing is known of a backup that was never reported.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            letter = self._letters.get(uid)
            if letter is None:
                return False
            letter.hurry()
            self._changed.notify_all()
            while not letter.over:
                rest = deadline - time.monotonic()
                if rest <= 0:
                    return False
                self._changed.wait(rest)
            return True

    def forget(self, uid: str) -> None:
        """Drop all memory of a backup; for those whose end was told."""
        with self._changed:
            self._letters.pop(uid, None)
            self._wishes.pop(uid, None)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._writer.join()

    def _letter(self, uid: str, namespace: str, name: str) -> Letter:
        return self._letters.setdefault(uid, Letter(uid, namespace, name))

    def _write(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                due = [letter for letter in self._letters.values() if letter.due_at is not None]
                letter = min(due, key=lambda letter: letter.due_at or 0.0, default=None)
                rest = None if letter is None or letter.due_at is None else letter.due_at - time.monotonic()
                if letter is None or rest is None or rest > 0:
                    self._changed.wait(rest)
                    continue
                statement = letter.take()
            self._send(letter, statement)

    def _send(self, letter: Letter, statement: Statement) -> None:
        """Write one status. Whatever goes wrong is noted in the letter: the thread must not end."""
        problem: Exception | None = None
        end = False
        try:
            end = self._swap(letter, statement)
        except Exception as error:  # whatever it is
            letter.body = None
            problem = error
        with self._changed:
            if problem is None:
                letter.sent(self._interval_seconds, end=end)
            elif isinstance(problem, NotFound):
                self._lose(letter)
            else:
                asked = problem.retry_after_seconds if isinstance(problem, APIServerAway) else None
                rest = letter.put_back(statement, asked)
                unforeseen = None if isinstance(problem, VMBackupError) else problem
                words = "%s: status not sent, again in %.1f s: %s"
                log.warning(words, letter.key, rest, problem, exc_info=unforeseen, extra=_about(letter))
            self._changed.notify_all()

    def _lose(self, letter: Letter) -> None:
        words = "%s: the %s is gone; its status is no longer written"
        log.info(words, letter.key, self.kind.name, extra=_about(letter))
        letter.gone = True
        self.heard(letter.uid, Wishes(deleted=True))

    def _swap(self, letter: Letter, statement: Statement) -> bool:
        """Read, change and write until nobody was faster; return whether the end is told now."""
        for _ in range(CONFLICTS_MAX):
            body = letter.body or self._read(letter)
            status = statement(type(self).parse(body.get("status") or {}), body["metadata"].get("generation", 0))
            try:
                letter.body = self._resources.patch_status(self.kind, body, status)
            except Conflict:
                letter.body = None
            else:
                self._listen(letter.body)
                return bool(status.phase == Phase.DONE)
        raise Conflict(f"{letter.key}: others changed it {CONFLICTS_MAX} times in between")

    def _read(self, letter: Letter) -> Body:
        body = self._resources.get(self.kind, letter.name, letter.namespace)
        if body["metadata"]["uid"] != letter.uid:
            raise NotFound(f"{letter.key}: another {self.kind.name} has taken its name")
        self._listen(body)
        return body

    def _listen(self, body: Body) -> None:
        """Hear the user's wishes from every answer too: the watch may be late."""
        cancel, deleted = bool(body["spec"].get("cancel")), "deletionTimestamp" in body["metadata"]
        if cancel or deleted:
            self.heard(body["metadata"]["uid"], Wishes(cancel, deleted))


class StatusLedger(StatusWriter):
    """Implements core.ports.Ledger: the status of VMBackups."""

    def report(self, run: Run, facts: Facts) -> None:
        """Tell how the run stands. Never blocks and never raises: the last report wins."""
        at = self._now()

        def status(previous: VMBackupStatus, generation: int) -> VMBackupStatus:
            return status_of(
                run,
                facts,
                previous,
                at,
                generation=generation,
                executor=self._executor,
                bytes_per_second=letter.bytes_per_second,
            )

        with self._changed:
            letter = self._letter(run.uid, run.namespace, run.name)
            letter.measure(run, facts, at)
            letter.put(status, (run.phase, run.outcome, run.attempt))
            self._changed.notify_all()

    def waits(self, backup: VMBackup, reason: VMBackupError) -> None:
        """Tell that a backup cannot begin yet. Never blocks and never raises."""
        self._tell(backup, lambda status, stamp: waiting(status, reason.reason, reason.message, stamp), reason.reason)

    def refuses(self, backup: VMBackup, reason: Refused) -> None:
        """Tell that a backup ended before anything was touched. Never blocks and never raises."""
        self._tell(backup, lambda status, stamp: refused(status, reason.reason, reason.message, stamp), Phase.DONE)

    def wishes(self, run: Run) -> Wishes:
        """Return what the user wants, from memory."""
        return self.wished(run.uid)

    def _tell(self, backup: VMBackup, change: Callable[[VMBackupStatus, Stamp], VMBackupStatus], mark: object) -> None:
        at = self._now()

        def status(previous: VMBackupStatus, generation: int) -> VMBackupStatus:
            told = change(previous, Stamp(at, generation))
            return told.model_copy(update={"executor": self._executor})

        with self._changed:
            letter = self._letter(backup.metadata.uid, backup.metadata.namespace, backup.metadata.name)
            letter.put(status, mark)
            self._changed.notify_all()


def _about(letter: Letter) -> dict[str, str]:
    """Return what a line of the log is about."""
    return {"backup": letter.key, "uid": letter.uid}
