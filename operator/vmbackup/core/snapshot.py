"""Snapshot: the guest writes to our overlays while their bases are copied; then it is taken home.

Preparing → Freezing → Snapshotting → Copying → Committing → Pivoting → Cleaning → Verifying → Publishing → Done

From Snapshotting on every way leads through Committing: a failure changes the outcome, never the way home.
"""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, RunDisk
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.beginning import beginning, location_in_trouble
from vmbackup.core.ending import ENDING
from vmbackup.core.position import AT_BASE, Position, every, first, positions
from vmbackup.core.rules import (
    Act,
    Fail,
    Go,
    Retry,
    Rule,
    Table,
    Test,
    View,
    Wait,
    Write,
    always,
    because,
    failed,
    giving_up,
    last_error,
    resting,
    tight,
    vm_gone,
    works_running,
)  # fmt: skip
from vmbackup.core.steps import Pivot, RemoveOverlay, StartCommit, StartCopy, StopWorks, TakeSnapshot
from vmbackup.units import GIB, human_bytes, human_seconds, parse_bytes

OVERLAY_RESERVE_BYTES = GIB // 2
REMOVE_TRIES_MAX = 5
SETTLED = AT_BASE | {Position.LOST}


def some(where: Position) -> Test:
    return lambda view: first(view, where) is not None


def _disk(view: View, where: Position) -> RunDisk:
    disk = first(view, where)
    assert disk is not None, "the rule's test has found it"
    return disk


# -- Copying ------------------------------------------------------------------------------------------------------


def left_overlay(view: View) -> bool:
    """Return whether a disk that must be on its overlay is not: the copy's base may have been written."""
    return any(where not in (Position.ON_OVERLAY, Position.OFF) for where in positions(view).values())


def _copied(view: View) -> dict[str, object]:
    return {"disks": tuple(_with_result(view, disk) for disk in view.run.disks)}


def _with_result(view: View, disk: RunDisk) -> RunDisk:
    return disk.model_copy(update={"copied": True}) if copy_state(view, disk) == "done" else disk


def copy_state(view: View, disk: RunDisk) -> str:
    work = view.store.works.get(disk.target)
    return work.state if work is not None and work.kind == "copy" else ""


def a_copy(state: str) -> Test:
    return lambda view: any(copy_state(view, disk) == state and not disk.copied for disk in view.run.disks)


def to_copy(view: View) -> str:
    return next((disk.target for disk in view.run.disks if not disk.copied and not copy_state(view, disk)), "")


def _copy_error(view: View) -> str:
    disk = next(disk for disk in view.run.disks if copy_state(view, disk) == "failed")
    return f"VM {view.run.domain}, disk {disk.target}: {view.store.works[disk.target].error}"


def overlay_too_old(view: View) -> bool:
    return view.now - (view.run.overlay_at or view.now) > view.run.spec.overlay.max_seconds


def overlay_too_large(view: View) -> bool:
    return sum(view.store.overlay_bytes.values()) > parse_bytes(view.run.spec.overlay.max_bytes)


def overlay_space_low(view: View) -> bool:
    free = view.store.overlay_free_bytes
    return free is not None and free < OVERLAY_RESERVE_BYTES


def _overlay_limit(view: View) -> str:
    size = human_bytes(sum(view.store.overlay_bytes.values()))
    age = human_seconds(view.now - (view.run.overlay_at or view.now))
    free = human_bytes(view.store.overlay_free_bytes or 0)
    return (
        f"VM {view.run.domain}: the overlays reached {size} in {age} with {free} left beside them; the copy was given up "
        "and the VM taken home. Raise spec.overlay, or back up when the guest writes less."
    )


# -- The way home -------------------------------------------------------------------------------------------------


def to_commit(view: View) -> RunDisk | None:
    """Return the next disk to commit. A disk whose commit has died rests before the next try."""
    waiting = [disk for disk in view.run.disks if positions(view)[disk.target] is Position.ON_OVERLAY]
    return next((disk for disk in waiting if not disk.commits or not resting(view)), None)


def _commit(view: View) -> StartCommit:
    disk = to_commit(view)
    assert disk is not None, "the rule's test has found it"
    return StartCommit(disk.target, disk.source)


def _commit_intended(view: View) -> dict[str, object]:
    disk = to_commit(view)
    assert disk is not None, "the rule's test has found it"
    rest = min(2.0**disk.commits, 30.0)
    run = view.run.with_disk(disk.target, commits=disk.commits + 1)
    return {"disks": run.disks, "not_before": view.now + rest}


def _pivot_intended(view: View) -> dict[str, object]:
    run = view.run.with_disk(_disk(view, Position.READY).target, pivot_instance=view.domain.instance)
    return {"disks": run.disks}


def lost(view: View) -> bool:
    return first(view, Position.LOST) is not None and view.run.outcome is not Outcome.STRANDED


def _stranded(view: View) -> dict[str, object]:
    disk = _disk(view, Position.LOST)
    seen = view.domain.disk(disk.target)
    message = (
        f"VM {view.run.domain}, disk {disk.target}: the guest runs on {seen.source if seen else 'no disk'} while the "
        f"overlay {disk.overlay} may hold writes that {disk.source} misses. Nothing was merged or removed. Look at both "
        "images, decide which one is right, then remove the overlay by hand."
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


def _remove(view: View) -> RemoveOverlay:
    disk = to_remove(view)
    assert disk is not None, "the rule's test has found it"
    return RemoveOverlay(disk.target)


def _home(view: View) -> dict[str, object]:
    return {"overlay_milliseconds": round((view.now - (view.run.overlay_at or view.now)) * 1000)}


SNAPSHOT: Table = {
    **beginning(then=Phase.SNAPSHOTTING),
    # The point in time. The call is atomic: afterwards all disks are on our overlays, or none is.
    Phase.SNAPSHOTTING: (
        Rule("on our overlays", lambda view: every(view, frozenset({Position.ON_OVERLAY})), Go(Phase.COPYING)),
        Rule("some disk has left its base", lambda view: not every(view, AT_BASE), Fail(
            because(Reason.SNAPSHOT_FAILED, lambda view: f"VM {view.run.domain}: not all disks are on our overlays: "
                    f"{view.error or 'the snapshot was interrupted'}", heals=True), Phase.COMMITTING)),
        Rule("snapshot refused", failed(TakeSnapshot), Fail(last_error(Reason.SNAPSHOT_FAILED), Phase.CLEANING)),
        Rule("interrupted", lambda view: view.run.began, Fail(
            because(Reason.INTERRUPTED, lambda view: f"VM {view.run.domain}: interrupted before the snapshot was taken",
                    heals=True), Phase.CLEANING)),
        Rule("giving up", giving_up, Go(Phase.CLEANING)),
        Rule("VM gone", vm_gone, Fail(
            because(Reason.SOURCE_LOST, lambda view: f"VM {view.run.domain} stopped before the snapshot", heals=True),
            Phase.CLEANING)),
        Rule("to be taken", always, Act(
            lambda view: TakeSnapshot(tuple((disk.target, disk.overlay) for disk in view.run.disks)),
            lambda view: {"began": True, "point_in_time": view.now, "overlay_at": view.now})),
    ),
    # The bases stand still and are copied. A crash of anything leaves the guest on the overlays, where it may stay.
    Phase.COPYING: (
        Rule("giving up, a copy runs", lambda view: giving_up(view) and works_running(view), Act(lambda _: StopWorks())),
        Rule("giving up", giving_up, Go(Phase.COMMITTING)),
        Rule("a disk left its overlay", left_overlay, Fail(
            because(Reason.SOURCE_LOST, lambda view: f"VM {view.run.domain}: a disk left our overlay while its base was "
                    "being copied; the copy is not trusted", heals=True), Phase.COPYING)),
        Rule("overlay limit", lambda view: overlay_too_old(view) or overlay_too_large(view) or overlay_space_low(view),
             Fail(because(Reason.OVERLAY_LIMIT, _overlay_limit), Phase.COPYING)),
        Rule("location in trouble", location_in_trouble, Fail(
            because(Reason.LOCATION_UNUSABLE, lambda view: view.store.problem, heals=True), Phase.COPYING)),
        Rule("location nearly full", tight, Fail(
            because(Reason.NO_SPACE, lambda view: f"VM {view.run.domain}: only {human_bytes(view.store.free_bytes)} are "
                    f"left in {view.run.location_path}; the copy was stopped"), Phase.COPYING)),
        Rule("a copy failed", a_copy("failed"), Fail(
            because(Reason.COPY_FAILED, _copy_error, heals=True), Phase.COPYING)),
        Rule("copy refused", failed(StartCopy), Fail(last_error(Reason.COPY_FAILED), Phase.COPYING)),
        Rule("a copy is done", a_copy("done"), Write(_copied)),
        Rule("all copied", lambda view: all(disk.copied for disk in view.run.disks), Go(Phase.COMMITTING)),
        Rule("a base to copy", lambda view: bool(to_copy(view)), Act(lambda view: StartCopy(to_copy(view)))),
        Rule("copying", always, Wait(0.5)),
    ),
    # The overlays are merged into their bases. A crash leaves the chain as it is; the commit is begun again.
    Phase.COMMITTING: (
        Rule("a copy runs", works_running, Act(lambda _: StopWorks())),
        Rule("a disk is lost", lost, Write(_stranded)),
        Rule("all on their bases", lambda view: every(view, SETTLED), Go(Phase.CLEANING, _home)),
        Rule("all ready", lambda view: every(view, SETTLED | {Position.READY}), Go(Phase.PIVOTING)),
        Rule("commit refused", failed(StartCommit), Retry()),
        Rule("VM is off", some(Position.OFF), Wait(5.0)),
        Rule("an overlay to merge", lambda view: to_commit(view) is not None, Act(_commit, _commit_intended)),
        Rule("merging", always, Wait(0.2)),
    ),
    # QEMU is told to write to the base. A crash: the source in the XML tells whether it does.
    Phase.PIVOTING: (
        Rule("a disk is lost", lost, Write(_stranded)),
        Rule("all on their bases", lambda view: every(view, SETTLED), Go(Phase.CLEANING, _home)),
        Rule("the commit has gone", lambda view: not every(view, SETTLED | {Position.READY}), Go(Phase.COMMITTING)),
        Rule("pivot refused", failed(Pivot), Retry()),
        Rule("resting", resting, Wait(0.5)),
        Rule("ready", always, Act(lambda view: Pivot(_disk(view, Position.READY).target), _pivot_intended)),
    ),
    # An overlay is removed only when its disk is on the base, live and in the definition.
    Phase.CLEANING: (
        Rule("a disk is lost", lost, Write(_stranded)),
        Rule("a disk is not home", lambda view: not every(view, SETTLED), Go(Phase.COMMITTING)),
        Rule("cannot remove", lambda view: failed(RemoveOverlay)(view) and view.run.tries < REMOVE_TRIES_MAX, Retry()),
        Rule("resting", resting, Wait(0.5)),
        Rule("an overlay to remove", lambda view: to_remove(view) is not None and view.run.tries < REMOVE_TRIES_MAX,
             Act(_remove)),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("home", always, Go(Phase.VERIFYING)),
    ),
    **ENDING,
}  # fmt: skip
