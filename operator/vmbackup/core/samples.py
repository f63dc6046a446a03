"""What is known, as figures: worked out when somebody asks, so that they are right after a restart as well."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Outcome, Phase, SourceKind, VMBackup
from vmbackup.core.kstatus import epoch
from vmbackup.core.metrics import (
    FROZEN,
    FROZEN_GUESTS,
    LAST_PROOF,
    LAST_SUCCESS,
    MERGE_DEBT_OLDEST,
    MERGE_DEBTS,
    OVERLAY,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    STRANDED,
    UNPROVED_SETS,
    Labels,
    Metric,
    Samples,
)

NO_METHOD = "None"
ABANDONED = "Abandoned"

VM = tuple[str, str]  # namespace and name


class Proof(NamedTuple):
    """The newest proof of one kind. `at`: seconds since the epoch."""

    kind: str
    succeeded: bool
    at: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a backup ended, as far as metrics tell it. Times are seconds since the epoch, None when not known.

    result: the outcome; Abandoned where nobody could report one. method: None where none was chosen.
    """

    vm: VM
    kind: SourceKind
    result: str
    method: str
    started_at: float | None
    ended_at: float | None
    stored_bytes: int
    proofs: tuple[Proof, ...] = ()

    @property
    def duration_seconds(self) -> float | None:
        """Return the time from start to end, None when it never began."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)


def ending(backup: VMBackup) -> Ending:
    """Return how a backup ended."""
    status = backup.status
    return Ending(
        vm=(backup.metadata.namespace, backup.spec.source.name),
        kind=backup.spec.source.kind,
        result=str(status.outcome) if status.outcome and backup.finished else ABANDONED,
        method=str(status.method.used) if status.method else NO_METHOD,
        started_at=epoch(status.start_time) if status.start_time else None,
        ended_at=epoch(status.completion_time) if status.completion_time else None,
        stored_bytes=status.stored_bytes or 0,
        proofs=tuple(Proof(one.kind, one.succeeded, epoch(one.time)) for one in status.proofs),
    )


def queue(backups: Iterable[VMBackup], now: float) -> Samples:
    """Return how many backups wait for their turn, and how long the oldest has."""
    made_at = [
        epoch(each.metadata.creation_timestamp) for each in backups if not each.finished and not each.status.node
    ]
    oldest_seconds = max(0.0, now - min(made_at, default=now))
    return {QUEUE_DEPTH: {(): len(made_at)}, QUEUE_OLDEST: {(): oldest_seconds}}


def last_successes(endings: Iterable[Ending], vms: Mapping[SourceKind, Collection[VM]]) -> Samples:
    """Return the end of each VM's last success. `vms`: those that there are; others are gone, and left out."""
    newest: dict[Labels, float] = {}
    for each in endings:
        there = each.vm in vms.get(each.kind, ())
        if each.result == Outcome.SUCCEEDED and each.ended_at is not None and there:
            newest[each.vm] = max(each.ended_at, newest.get(each.vm, 0.0))
    return {LAST_SUCCESS: newest}


def proofs(endings: Iterable[Ending]) -> Samples:
    """Return when sets of each VM last stood a proof, and how many did not."""
    stood: dict[Labels, float] = {}
    failed: dict[Labels, float] = {}
    for each in endings:
        for proof in each.proofs:
            labels = (*each.vm, proof.kind)
            failed[labels] = failed.get(labels, 0) + (not proof.succeeded)
            if proof.succeeded:
                stood[labels] = max(proof.at, stood.get(labels, 0.0))
    return {LAST_PROOF: stood, UNPROVED_SETS: failed}


def debts(runs: Iterable[Run], node: str, now: float) -> Samples:
    """Return what the node's runs owe to its VMs: overlays to merge, guests to thaw, cases for a human."""
    runs = list(runs)
    since = [run.overlay_at for run in runs if run.overlay_at is not None and run.on_overlay]
    return {
        MERGE_DEBTS: {(node,): len(since)},
        MERGE_DEBT_OLDEST: {(node,): max(0.0, now - min(since, default=now))},
        FROZEN_GUESTS: {(node,): sum(run.maybe_frozen for run in runs)},
        STRANDED: {(node,): sum(run.outcome is Outcome.STRANDED and run.phase is Phase.DONE for run in runs)},
    }


def felt(before: Run | None, after: Run) -> dict[Metric, float]:
    """Return what the guest has felt between two looks at a run, in seconds.

    before: None at the first look; what the run says then was felt earlier, and was counted by whoever saw it.
    """
    if before is None:
        return {}
    spans = {
        FROZEN: (before.frozen_milliseconds, after.frozen_milliseconds),
        OVERLAY: (before.overlay_milliseconds, after.overlay_milliseconds),
    }
    return {metric: new / 1000 for metric, (old, new) in spans.items() if new is not None and old is None}


def merged(parts: Iterable[Samples]) -> Samples:
    """Return all samples together."""
    together: defaultdict[Metric, dict[Labels, float]] = defaultdict(dict)
    for part in parts:
        for metric, values in part.items():
            together[metric].update(values)
    return together
