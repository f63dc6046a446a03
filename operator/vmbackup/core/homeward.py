"""Snapshot method, the way home: merge, pivot, remove our overlay; what cannot be merged is left alone and told."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, RunDisk
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.position import AT_BASE, Position, every, first, positions
from vmbackup.core.rules import Test, View, failed, resting
from vmbackup.core.steps import Pivot, RemoveOverlay, StartCommit

REMOVE_TRIES_MAX = 5
SETTLED = AT_BASE | {Position.LOST}


def some(where: Position) -> Test:
    return lambda view: first(view, where) is not None


def _disk(view: View, where: Position) -> RunDisk:
    disk = first(view, where)
    assert disk is not None, "the rule's test has found it"
    return disk


def to_commit(view: View) -> RunDisk | None:
    """Return the next disk to commit. A disk whose commit has died rests before the next try."""
    waiting = [disk for disk in view.run.disks if positions(view)[disk.target] is Position.ON_OVERLAY]
    return next((disk for disk in waiting if not disk.commits or not resting(view)), None)


def commit(view: View) -> StartCommit:
    disk = to_commit(view)
    assert disk is not None, "the rule's test has found it"
    return StartCommit(disk.target, disk.source)


def commit_intended(view: View) -> dict[str, object]:
    disk = to_commit(view)
    assert disk is not None, "the rule's test has found it"
    rest = min(2.0**disk.commits, 30.0)
    run = view.run.with_disk(disk.target, commits=disk.commits + 1)
    return {"disks": run.disks, "not_before": view.now + rest}


def pivot_intended(view: View) -> dict[str, object]:
    run = view.run.with_disk(_disk(view, Position.READY).target, pivot_instance=view.domain.instance)
    return {"disks": run.disks}


def lost(view: View) -> bool:
    return first(view, Position.LOST) is not None and view.run.outcome is not Outcome.STRANDED


def stranded(view: View) -> dict[str, object]:
    disk = _disk(view, Position.LOST)
    seen = view.domain.disk(disk.target)
    message = (
        f"VM {view.run.domain}, disk {disk.target}: the guest runs on {seen.source if seen else 'no disk'} while the "
        f"overlay {disk.overlay} may hold writes that {disk.source} misses. Nothing was merged or removed. Look at "
        "both images, decide which one is right, then remove the overlay by hand."
    )
    return {
        "outcome": Outcome.STRANDED,
        "failure": Failure(reason=Reason.OVERLAY_ORPHANED, message=message),
    }


def to_remove(view: View) -> RunDisk | None:
    """Return the next disk that is on its base while our overlay file is still there."""
    there = view.store.overlay_bytes
    where = positions(view)
    return next((disk for disk in view.run.disks if disk.target in there and where[disk.target] in AT_BASE), None)


def remove(view: View) -> RemoveOverlay:
    disk = to_remove(view)
    assert disk is not None, "the rule's test has found it"
    return RemoveOverlay(disk.target)


def home(view: View) -> dict[str, object]:
    return {"overlay_milliseconds": round((view.now - (view.run.overlay_at or view.now)) * 1000)}


def on_bases(view: View) -> bool:
    return every(view, SETTLED)


def all_ready(view: View) -> bool:
    return every(view, SETTLED | {Position.READY})


def not_all_ready(view: View) -> bool:
    return not all_ready(view)


def not_home(view: View) -> bool:
    return not on_bases(view)


def overlay_waits(view: View) -> bool:
    return to_commit(view) is not None


def may_remove(view: View) -> bool:
    return to_remove(view) is not None and view.run.tries < REMOVE_TRIES_MAX


def remove_refused(view: View) -> bool:
    return failed(RemoveOverlay)(view) and view.run.tries < REMOVE_TRIES_MAX


def pivot(view: View) -> Pivot:
    return Pivot(_disk(view, Position.READY).target)
