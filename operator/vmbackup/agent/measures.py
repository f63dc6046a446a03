"""What the agent measures on its node, and what it knows when somebody asks."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase
from vmbackup.core import metrics
from vmbackup.core.metrics import LIBVIRT_CALL, RUNNING, Samples
from vmbackup.core.samples import debts, felt, merged
from vmbackup.door.logs import also_about, of_run
from vmbackup.door.metrics import Metrics
from vmbackup.store.journal import read_runs

log = logging.getLogger(__name__)


class Measures:
    """The agent's metrics. `state`: the directory of the node journal, which knows the debts after a restart, too."""

    def __init__(self, node: str, state: Path) -> None:
        self._node, self._state = node, state
        self._lock = threading.Lock()
        self._noticed: dict[str, Run] = {}
        self.metrics = Metrics(metrics.AGENT)

    def look_at(self, busy: Callable[[], int], now: Callable[[], float]) -> None:
        """Show, at every scrape, the debts and how many backups are under way. `now`: the clock that runs are timed by.

        Until this is called only histograms are there.
        """

        def look() -> Samples:
            runs, _ = read_runs(self._state)
            return merged((debts(runs, self._node, now()), {RUNNING: {(self._node,): busy()}}))

        self.metrics.look_with(look)

    def took(self, call: str, seconds: float) -> None:
        """Take note of how long libvirt took for something."""
        self.metrics.observe(LIBVIRT_CALL, (self._node, call), seconds)

    def notice(self, run: Run) -> None:
        """Look at a run as it is now, in the thread that works on it."""
        also_about(of_run(run))
        with self._lock:
            before = self._noticed.pop(run.uid, None)
            if run.phase is not Phase.DONE:
                self._noticed[run.uid] = run
        for metric, seconds in felt(before, run).items():
            self.metrics.observe(metric, (self._node,), seconds)
        if before is not None and before.phase is not run.phase and run.phase is not Phase.DONE:
            log.info("%s: %s", run.key, run.phase)
