"""What the controller counts, and what it knows when somebody asks."""

import time

from vmbackup.api.restore import VMRestore, kind_of
from vmbackup.api.vmbackup import Method, Outcome, SourceKind
from vmbackup.cluster.lease import Election
from vmbackup.controller.cache import OPTIONAL, WATCHED, Cache
from vmbackup.controller.survey import Survey
from vmbackup.core import metrics
from vmbackup.core.metrics import BACKUPS, BYTES, DURATION, HEARTBEAT, LEADER, RESTORES, WATCH_AGE, Samples
from vmbackup.core.samples import ABANDONED, NO_METHOD, Ending, last_successes, merged, proofs, queue
from vmbackup.door.health import Health
from vmbackup.door.metrics import Metrics

METHODS = (Method.PUSH, Method.SNAPSHOT)
RESULTS = tuple((outcome, method) for outcome in Outcome if outcome is not Outcome.REFUSED for method in METHODS)
WITHOUT_METHOD = tuple((outcome, NO_METHOD) for outcome in (Outcome.REFUSED, Outcome.CANCELLED, Outcome.FAILED))


class Measures:
    """The controller's metrics. `look_at` makes the gauges known; until then only counters are there."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.metrics = Metrics(metrics.CONTROLLER)

    def look_at(self, survey: Survey, election: Election, health: Health) -> None:
        """Show what these know, at every scrape."""
        self.metrics.look_with(lambda: self._look(survey, election, health))

    def begun(self, namespace: str) -> None:
        """Begin to count for a namespace: its first failure is then a step from 0 to 1, which an alert can see."""
        for result, method in (*RESULTS, *WITHOUT_METHOD):
            self.metrics.count(BACKUPS, (result, method, namespace), 0)

    def ended(self, end: Ending) -> None:
        """Count the end of a backup. Called once for each, by whoever leads."""
        namespace, _ = end.vm
        self.metrics.count(BACKUPS, (end.result, end.method, namespace))
        if end.duration_seconds is not None:
            self.metrics.observe(DURATION, (end.result, end.method), end.duration_seconds)
        if end.result == Outcome.SUCCEEDED:
            self.metrics.count(BYTES, (end.method, namespace), end.stored_bytes)

    def restored(self, restore: VMRestore) -> None:
        """Count the end of a restore. Called once for each, by whoever leads."""
        kind = str(kind_of(restore.spec)) if restore.spec.target.proof is None else restore.spec.target.proof.kind
        result = str(restore.status.outcome) if restore.status.outcome and restore.finished else ABANDONED
        self.metrics.count(RESTORES, (result, kind, restore.metadata.namespace))

    def _look(self, survey: Survey, election: Election, health: Health) -> Samples:
        cache, now = self._cache, time.time()
        for counter in (BACKUPS, BYTES, RESTORES):
            self.metrics.keep(counter, "namespace", cache.namespaces())
        vmis, ends = cache.vmis(), [each.end for each in cache.finished()]
        vms = {
            SourceKind.DOMAIN: {(vm.namespace, vm.name) for host in cache.hosts().values() for vm in host.status.vms},
            SourceKind.VMI: set(vmis),
        }
        ages = health.watch_ages()
        watched = (*WATCHED, *OPTIONAL) if vmis else WATCHED  # with none of an optional kind there is nothing to miss
        return merged(
            (
                queue(cache.backups(), now),
                last_successes(ends, vms),
                proofs(ends),
                {
                    WATCH_AGE: {(kind.plural,): ages[kind.name] for kind in watched if kind.name in ages},
                    HEARTBEAT: {(node,): now - silence for node, silence in survey.silences().items()},
                    LEADER: {(): float(election.leading)},
                },
            )
        )
