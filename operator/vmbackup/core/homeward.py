"""Snapshot method, the way home: merge, pivot, remove our overlay; what cannot be merged is left alone and told."""

from itertools import pairwise

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, RunDisk
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.position import (
    AT_BASE,
    Position,
    base_went_on,
    defined_on_overlay,
    every,
    first,
    pivot_died,
    positions,
)
from vmbackup.core.rules import Test, View, giving_up, rest_seconds, resting
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
    rest = rest_seconds(disk.commits)
    run = view.run.with_disk(disk.target, commits=disk.commits + 1)
    return {"disks": run.disks, "not_before": view.now + rest}


def pivot_intended(view: View) -> dict[str, object]:
    disk = _disk(view, Position.READY)
    seen = view.domain.disk(disk.target)
    followed = seen is not None and defined_on_overlay(seen, disk)
    run = view.run.with_disk(
        disk.target,
        pivot_instance=view.domain.instance,
        base_written_at=view.store.written_at.get(disk.source),
        followed=followed,
    )
    return {"disks": run.disks}


def pivot_undone(view: View) -> dict[str, object]:
    """Forget the pivots that were intended in a QEMU which died before: nothing can come of them any more."""
    run, where = view.run, positions(view)
    for disk in run.disks:
        if pivot_died(view.domain, disk) and where[disk.target] in (Position.ON_OVERLAY, Position.OFF):
            run = run.with_disk(disk.target, pivot_instance="", base_written_at=None, followed=False)
    return {"disks": run.disks}


def lost(view: View) -> bool:
    return first(view, Position.LOST) is not None and view.run.outcome is not Outcome.STRANDED


def stranded(view: View) -> dict[str, object]:
    disk = _disk(view, Position.LOST)
    message = f"VM {view.run.domain}, disk {disk.target}: {_loss(view, disk)}"
    failure = Failure(reason=Reason.OVERLAY_ORPHANED, message=message)
    lost_ones = [each for each in view.run.disks if positions(view)[each.target] is Position.LOST]
    covered = all(_covered(view, each) for each in lost_ones)
    return {"outcome": Outcome.STRANDED, "failure": failure, "covered": covered}


def _covered(view: View, disk: RunDisk) -> bool:
    """Return whether our overlay is in use below somebody else's layer, right above its base: nothing is lost."""
    seen = view.domain.disk(disk.target)
    chain = [image.path for image in seen.backing] if seen is not None and view.domain.alive else []
    return (disk.overlay, disk.source) in pairwise(chain)


def _loss(view: View, disk: RunDisk) -> str:
    seen = view.domain.disk(disk.target)
    if seen is not None and seen.source == disk.source and defined_on_overlay(seen, disk):
        return (
            f"the guest runs on {disk.source}, but the VM's definition names our overlay {disk.overlay}, so its next "
            f"start would be on old data. Nothing was removed. Put {disk.source} into the definition (virsh edit), "
            "then remove the overlay by hand."
        )
    if seen is not None and _covered(view, disk):
        return (
            f"somebody's layer {seen.source} lies on our overlay {disk.overlay}, so it cannot be merged. Nothing is "
            "lost: keep all files. Merge that layer (virsh blockcommit --active --shallow --pivot); then the agent "
            "takes the VM home by itself."
        )
    if seen is not None and seen.source == disk.overlay and base_went_on(view, disk):
        return (
            f"{disk.source} was written to after the pivot to it was begun, and later than our overlay "
            f"{disk.overlay}, on which the VM is again: what the guest wrote in between is in the base only. Nothing "
            "was merged or removed: shut the VM down, keep both images, and decide which one is right."
        )
    if seen is not None and seen.source == disk.overlay:
        below = seen.backing[0].path if seen.backing else "nothing"
        return (
            f"the guest runs on our overlay {disk.overlay}, but below it lies {below} instead of {disk.source}: "
            "somebody changed the chain. Nothing was merged or removed: keep all files. See whose image that is, "
            "and whether the overlay may be merged into it (virsh blockcommit --active --shallow --pivot)."
        )
    return (
        f"the guest runs on {seen.source if seen else 'no such disk'} while the overlay {disk.overlay} may hold "
        f"writes that {disk.source} misses. Nothing was merged or removed. Look at both images, decide which one is "
        "right, then remove the overlay by hand."
    )


def to_remove(view: View) -> RunDisk | None:
    """Return the next disk that is on its base while our overlay file is still there; after a refusal another one."""
    there = view.store.overlay_bytes
    where = positions(view)
    useless = [disk for disk in view.run.disks if disk.target in there and where[disk.target] in AT_BASE]
    return useless[view.run.tries % len(useless)] if useless else None


def remove(view: View) -> RemoveOverlay:
    disk = to_remove(view)
    assert disk is not None, "the rule's test has found it"
    return RemoveOverlay(disk.target)


def home(view: View) -> dict[str, object]:
    return {"overlay_milliseconds": round((view.now - (view.run.overlay_at or view.now)) * 1000)}


def away_again(_: View) -> dict[str, object]:
    return {"overlay_milliseconds": None}


def never_away(view: View) -> dict[str, object]:
    """Forget when the snapshot was intended if the VM never was on an overlay: who comes home from one says so."""
    return {} if view.run.overlay_milliseconds is not None else {"overlay_at": None}


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
    """Return whether the overlay is still there after a try to remove it, refused or not."""
    last = view.facts.last
    tried = last.step if last is not None else None
    there = isinstance(tried, RemoveOverlay) and tried.target in view.store.overlay_bytes
    return there and view.run.tries < REMOVE_TRIES_MAX


def not_removed(view: View) -> str:
    return view.error or f"VM {view.run.domain}: an overlay is still there after its removal"


def overlay_stays(view: View) -> bool:
    """Return whether a file has to be left and that was not noted yet."""
    disk = to_remove(view)
    return disk is not None and disk.overlay not in view.run.left


def left_behind(view: View) -> dict[str, object]:
    there, where = view.store.overlay_bytes, positions(view)
    paths = [disk.overlay for disk in view.run.disks if disk.target in there and where[disk.target] in AT_BASE]
    words = f"Merged and of no use, but not removed: {', '.join(paths)} ({view.run.trouble})."
    return {"left": f"{view.run.left} {words}".strip()}


def pivoted_in_vain(view: View) -> bool:
    """Return whether libvirt took the pivot, but the disk is not seen on its base yet."""
    last = view.facts.last
    tried = last.step if last is not None and last.error is None else None
    return isinstance(tried, Pivot) and positions(view)[tried.target] is Position.READY


def taken_home_by_others(view: View) -> bool:
    """Return whether a disk came home without us: whoever did it may have written to the base while it was copied."""
    return not giving_up(view) and first(view, Position.NEVER_LEFT) is not None


def off_words(view: View) -> str:
    disk = _disk(view, Position.OFF)
    there = "" if disk.target in view.store.overlay_bytes else ", which is gone: put it back, or"
    return (
        f"VM {view.run.domain} is off and its definition names our overlay {disk.overlay}{there}; start it, and it is "
        "taken home"
    )


def commit_rests(view: View) -> bool:
    """Return whether nothing is merged now, since the last commit has died or was refused."""
    return first(view, Position.ON_OVERLAY) is not None and first(view, Position.MERGING) is None


def merging_words(view: View) -> str:
    return "" if first(view, Position.MERGING) is not None else view.run.trouble


def pivot(view: View) -> Pivot:
    return Pivot(_disk(view, Position.READY).target)
