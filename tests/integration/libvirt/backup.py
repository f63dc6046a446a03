"""A backup in a thread of the test, watched from the outside."""

import threading
from dataclasses import replace

from integration.libvirt.engine import Engine
from integration.libvirt.machines import wait_until
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase
from vmbackup.core.plan import Request

RUN_SECONDS = 120.0


class Backup:
    """One backup in a thread."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.engine = engine
        self.first = engine.begin(request)
        self._run: Run | None = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name=f"backup {request.uid}", daemon=True)
        self.thread.start()

    @property
    def phase(self) -> Phase:
        return self.seen.phase

    @property
    def seen(self) -> Run:
        """Return the run as it was last reported."""
        reports = self.engine.ledger.reports
        return reports[-1][0] if reports else self.first

    def phases(self) -> list[Phase]:
        """Return the phases in the order in which they were entered."""
        seen = [run.phase for run, _ in self.engine.ledger.reports]
        return [phase for at, phase in enumerate(seen) if at == 0 or phase is not seen[at - 1]]

    def copying(self) -> bool:
        _, facts = self.engine.ledger.reports[-1]
        return any(work.bytes_done for work in facts.store.works.values())

    def wait_for(self, phase: Phase) -> None:
        wait_until(lambda: self.phase is phase or not self.thread.is_alive(), f"phase {phase}")
        if self._error is not None:
            raise self._error
        assert self.phase is phase, f"in {self.phase}: {self.seen.failure}"

    def cancel(self) -> None:
        self.engine.ledger.wish = replace(self.engine.ledger.wish, cancel=True)
        self.engine.woken.set()

    def end(self, seconds: float = RUN_SECONDS) -> Run:
        """Wait for the end and return the run."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"not over after {seconds:.0f} s: {self.seen}"
        if self._error is not None:
            raise self._error
        assert self._run is not None
        return self._run

    def _work(self) -> None:
        try:
            self._run = self.engine.finish(self.first)
        except BaseException as error:
            self._error = error
