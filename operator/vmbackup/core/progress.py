"""How far a copy is, how fast, and when it will be done. Sizes in bytes, times in seconds."""

import math
from dataclasses import dataclass

from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method, Phase, Progress, VMBackupStatus
from vmbackup.core.facts import BackupJob, Facts

SMOOTHING_SECONDS = 10.0


@dataclass(frozen=True)
class Pace:
    """The speed of a copy, smoothed over about ten seconds, and the point that it was measured at."""

    at: float
    bytes_done: int
    bytes_per_second: float | None = None

    def next(self, bytes_done: int, now: float) -> "Pace":
        """Return the pace with one more measurement; a copy that began anew starts over."""
        elapsed = now - self.at
        if elapsed <= 0:
            return self
        if bytes_done < self.bytes_done:
            return Pace(now, bytes_done)
        fresh = (bytes_done - self.bytes_done) / elapsed
        if self.bytes_per_second is None:
            return Pace(now, bytes_done, fresh)
        weight = 1 - math.exp(-elapsed / SMOOTHING_SECONDS)
        return Pace(now, bytes_done, self.bytes_per_second + weight * (fresh - self.bytes_per_second))


def bytes_total(run: Run) -> int:
    return sum(disk.virtual_bytes for disk in run.disks)


def bytes_done(run: Run, facts: Facts) -> int | None:
    """Return how many bytes are copied, holes included; None when it cannot be seen now."""
    total = bytes_total(run)
    if all(disk.copied for disk in run.disks):
        return total
    if run.method is Method.PUSH:
        job = _push_job(run, facts)
        if job is None or job.bytes_total <= 0:
            return None
        # The ratio holds whatever the job counts.
        return min(total, total * job.bytes_done // job.bytes_total)
    return sum(_copied_bytes(disk, facts) for disk in run.disks)


def copying(run: Run, disk: RunDisk, facts: Facts) -> bool:
    """Return whether this disk is being copied right now."""
    if run.method is Method.PUSH:
        job = _push_job(run, facts)
        return job is not None and disk.target in job.targets
    work = facts.store.works.get(disk.target)
    return work is not None and work.kind == "copy" and work.state == "running"


def progress(
    run: Run, facts: Facts, previous: VMBackupStatus, now: float, bytes_per_second: float | None = None
) -> Progress | None:
    """Return the progress; within an attempt it never falls. None before anything was to be copied."""
    total = bytes_total(run)
    before = previous.progress if previous.attempt == run.attempt else None
    seen = bytes_done(run, facts)
    if seen is None and before is None:
        return None
    done = min(total, max(seen or 0, before.bytes_done if before else 0))
    copied = all(disk.copied for disk in run.disks)
    rate = 0.0 if copied or run.phase is Phase.DONE else _rate(run, done, now, bytes_per_second)
    return Progress(
        bytes_done=done,
        bytes_total=total,
        percent=100 * done // total if total else 100 * int(copied),
        bytes_per_second=round(rate),
        eta_seconds=math.ceil((total - done) / rate) if rate >= 1 else None,
    )


def _rate(run: Run, done: int, now: float, bytes_per_second: float | None) -> float:
    if bytes_per_second is not None:
        return max(0.0, bytes_per_second)
    elapsed = now - (run.point_in_time or run.attempt_started_at)
    return done / elapsed if elapsed > 0 else 0.0


def _push_job(run: Run, facts: Facts) -> BackupJob | None:
    job = facts.domain.job if facts.domain else None
    return job if job is not None and job.targets and run.phase in (Phase.STARTING, Phase.COPYING) else None


def _copied_bytes(disk: RunDisk, facts: Facts) -> int:
    if disk.copied:
        return disk.virtual_bytes
    work = facts.store.works.get(disk.target)
    if work is None or work.kind != "copy":
        return 0
    return disk.virtual_bytes if work.state == "done" else min(work.bytes_done, disk.virtual_bytes)
