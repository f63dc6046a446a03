"""The next status of one VMBackup on its way to the API server."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vmbackup.api.journal import Run
from vmbackup.cluster.client import Body
from vmbackup.core.facts import Facts
from vmbackup.core.progress import Pace, bytes_done

Statement = Callable[[Any, int], Any]  # previous status, generation -> new status
REST_SECONDS = 0.1
REST_SECONDS_MAX = 30.0


@dataclass
class Letter:
    """`body`: the resource as last read. `gone`: there is no such resource. `told_end`: its end was accepted.

    Not safe for threads: whoever holds the ledger's lock may touch it; `body` belongs to the writer alone.
    """

    uid: str
    namespace: str
    name: str
    body: Body | None = None
    gone: bool = False
    told_end: bool = False
    _statement: Statement | None = None
    _mark: object = None
    _urgent: bool = False
    _not_before: float = 0.0
    _failures: int = 0
    _pace: Pace | None = None

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def over(self) -> bool:
        """Tell whether the end was told, or nobody is left to be told."""
        return self.gone or (self.told_end and self._statement is None)

    @property
    def due_at(self) -> float | None:
        """Return the monotonic time of the next sending, None when nothing is to be sent."""
        if self._statement is None or self.gone:
            return None
        return 0.0 if self._urgent and not self._failures else self._not_before

    @property
    def bytes_per_second(self) -> float | None:
        return self._pace.bytes_per_second if self._pace else None

    def measure(self, run: Run, facts: Facts, at: float) -> None:
        done = bytes_done(run, facts)
        if done is not None:
            self._pace = self._pace.next(done, at) if self._pace else Pace(at, done)

    def put(self, statement: Statement, mark: object) -> None:
        """Replace what is to be sent. A new mark makes it urgent."""
        self._statement = statement
        self._urgent = self._urgent or mark != self._mark
        self._mark = mark

    def hurry(self) -> None:
        """Send what is to be sent now, whatever happened before."""
        self._urgent = True
        self._not_before = 0.0

    def take(self) -> Statement:
        assert self._statement is not None, "only letters that are due are taken"
        statement, self._statement, self._urgent = self._statement, None, False
        return statement

    def sent(self, interval_seconds: float, *, end: bool) -> None:
        self._failures = 0
        self._not_before = time.monotonic() + interval_seconds
        self.told_end = end

    def put_back(self, statement: Statement, retry_after_seconds: float | None) -> float:
        """Try again later, with what was said since if anything was; return the rest in seconds."""
        rest = max(retry_after_seconds or 0.0, min(REST_SECONDS * 2.0**self._failures, REST_SECONDS_MAX))
        self._failures = min(self._failures + 1, 10)
        self._not_before = time.monotonic() + rest
        self._statement = self._statement or statement
        return rest
