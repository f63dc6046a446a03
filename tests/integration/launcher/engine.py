"""The engine on a launcher pod: in a thread of the test, or as a process that dies when it is told to.

Moments are named as in `integration.libvirt.engine`.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from integration.libvirt.engine import REST_SECONDS, Hook, RecordingLedger, _moment, _Store, no_hook
from vmbackup.api.journal import Run
from vmbackup.core import ending
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.core.steps import HypervisorStep
from vmbackup.hypervisor.launcher import PodLibvirtd
from vmbackup.hypervisor.pods import read_file
from vmbackup.store.clock import SteadyClock
from vmbackup.store.journal import NodeJournal
from vmbackup.store.mounts import Mounts
from vmbackup.tick import drive


class _Hypervisor(PodLibvirtd):
    hook: Hook = staticmethod(no_hook)

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        self.hook(_moment("before", step), run)
        value = super().perform(run, step)
        self.hook(_moment("after", step), run)
        return value


class PodEngine:
    """What an agent has for one launcher pod, and one worker. As `integration.libvirt.engine.Engine`."""

    def __init__(self, pod_uid: str, kubelet: Path, state: Path, *, hook: Hook = no_hook) -> None:
        self.woken = threading.Event()
        self.hypervisor = _Hypervisor(pod_uid)
        self.store = _Store(
            domain_xml=self.hypervisor.domain_xml,
            wake=self.woken.set,
            mounts=Mounts(kubelet),
            read_pod_file=read_file,
        )
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


def main(kubelet: str, state: str, death: str) -> None:
    """Finish every run of the journal, as an agent does that was just started; die by SIGKILL at a moment."""
    ending.ATTEMPT_REST_SECONDS = REST_SECONDS  # type: ignore[assignment]

    def die(moment: str, _run: Run) -> None:
        if moment == death:
            os.kill(os.getpid(), signal.SIGKILL)

    for run in NodeJournal(Path(state)).runs():
        assert run.launcher is not None
        PodEngine(run.launcher.pod_uid, Path(kubelet), Path(state), hook=die).finish(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
