"""The engine on real ports without a cluster: in a thread of the test, or as a process that dies when it is told to.

A moment is named `in <Phase>` (its record is written, nothing is done yet), `before <Step>` or `after <Step>`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.ledger import FakeLedger
from vmbackup.api.journal import Run
from vmbackup.core import ending
from vmbackup.core.facts import Facts
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.store.clock import SteadyClock
from vmbackup.store.directories import Directories
from vmbackup.store.journal import NodeJournal
from vmbackup.tick import drive

# Nobody waits 5 seconds for the second attempt of a test.
REST_SECONDS = (0.2,)

Hook = Callable[[str, Run], None]


def no_hook(_moment: str, _run: Run) -> None:
    pass


class Hooked:
    """A port that tells of every act before and after it."""

    hook: Hook = staticmethod(no_hook)

    def perform(self, run: Run, step: Any) -> int | None:
        self.hook(f"before {type(step).__name__}", run)
        value: int | None = super().perform(run, step)  # type: ignore[misc]
        self.hook(f"after {type(step).__name__}", run)
        return value


class _Hypervisor(Hooked, Libvirtd):
    pass


class _Store(Hooked, Directories):
    pass


class RecordingLedger(FakeLedger):
    """Keeps every report, and tells the hook of every phase."""

    hook: Hook = staticmethod(no_hook)

    def report(self, run: Run, facts: Facts) -> None:
        super().report(run, facts)
        self.hook(f"in {run.phase}", run)


class Worker:
    """What an agent has of one daemon, and one worker. `store`: more that the store of its sets needs."""

    def __init__(self, hypervisor: Libvirtd, state: Path, hook: Hook, **store: Any) -> None:
        self.woken = threading.Event()
        self.hypervisor = hypervisor
        self.store = _Store(domain_xml=hypervisor.domain_xml, wake=self.woken.set, **store)
        self.journal = NodeJournal(state)
        clock = SteadyClock(state, busy=bool(self.journal.runs()))
        self.ledger = RecordingLedger()
        self.hypervisor.hook = self.store.hook = self.ledger.hook = hook
        self._ports = Ports(self.hypervisor, self.store, self.journal, self.ledger, clock)

    def begin(self, request: Request) -> Run:
        """Plan and write the first record. Raises: Refused, NotYet: nothing was touched."""
        facts = self.hypervisor.find(request.domain)
        run = plan(request, facts, self.hypervisor.host(), request.started_at)
        self.journal.record(run)
        return run

    def finish(self, run: Run) -> Run:
        """Take turns until the run is over; the record of its end stays in the journal."""
        with self.hypervisor.watch(lambda _uuid: self.woken.set()), self.journal.lock(run.lock_name):
            return drive(self._ports, run, self._pause)

    def _pause(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


class Engine(Worker):
    """The engine on a node's own daemon."""

    def __init__(self, uri: str, state: Path, *, may_use_monitor: bool = False, hook: Hook = no_hook) -> None:
        super().__init__(_Hypervisor(uri, may_use_monitor=may_use_monitor), state, hook)


def dying_at(death: str) -> Hook:
    """Return a hook that kills this process at a moment."""

    def die(moment: str, _run: Run) -> None:
        if moment == death:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def main(uri: str, state: str, death: str) -> None:
    """Finish every run of the journal, as an agent does that was just started; die by SIGKILL at a moment."""
    ending.ATTEMPT_REST_SECONDS = REST_SECONDS  # type: ignore[assignment]
    engine = Engine(uri, Path(state), hook=dying_at(death))
    for run in engine.journal.runs():
        engine.finish(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
