"""The engine on real ports without a cluster: in a thread of the test, or as a process that dies when it is told to.

A moment is named `in <Phase>` (its record is written, nothing is done yet), `before <Step>` or `after <Step>`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from fakes.ledger import FakeLedger
from vmbackup.api.journal import Run
from vmbackup.core import ending
from vmbackup.core.facts import Facts
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.core.steps import HypervisorStep, Step, StoreStep
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


class _Hypervisor(Libvirtd):
    hook: Hook = staticmethod(no_hook)

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        self.hook(_moment("before", step), run)
        value = super().perform(run, step)
        self.hook(_moment("after", step), run)
        return value


class _Store(Directories):
    hook: Hook = staticmethod(no_hook)

    def perform(self, run: Run, step: StoreStep) -> int | None:
        self.hook(_moment("before", step), run)
        value = super().perform(run, step)
        self.hook(_moment("after", step), run)
        return value


class RecordingLedger(FakeLedger):
    """Keeps every report, and tells the hook of every phase."""

    hook: Hook = staticmethod(no_hook)

    def report(self, run: Run, facts: Facts) -> None:
        super().report(run, facts)
        self.hook(f"in {run.phase}", run)


class Engine:
    """What an agent has of a node, and one worker."""

    def __init__(self, uri: str, state: Path, *, may_use_monitor: bool = False, hook: Hook = no_hook) -> None:
        self.woken = threading.Event()
        self.hypervisor = _Hypervisor(uri, may_use_monitor=may_use_monitor)
        self.store = _Store(domain_xml=self.hypervisor.domain_xml, wake=self.woken.set)
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
        with self.hypervisor.watch(lambda _uuid: self.woken.set()), self.journal.lock(run.domain_uuid):
            return drive(self._ports, run, self._pause)

    def _pause(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


def main(uri: str, state: str, death: str) -> None:
    """Finish every run of the journal, as an agent does that was just started; die by SIGKILL at a moment."""
    ending.ATTEMPT_REST_SECONDS = REST_SECONDS  # type: ignore[assignment]

    def die(moment: str, _run: Run) -> None:
        if moment == death:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = Engine(uri, Path(state), hook=die)
    for run in engine.journal.runs():
        engine.finish(run)


def _moment(when: str, step: Step) -> str:
    return f"{when} {type(step).__name__}"


if __name__ == "__main__":
    main(*sys.argv[1:])
