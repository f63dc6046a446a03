"""Snapshot: the guest writes to our overlays while their bases are copied; then it is taken home.

Preparing → Freezing → Snapshotting → Copying → Committing → Pivoting → Cleaning → Verifying → Publishing → Done

From Snapshotting on every way leads through Committing: a failure changes the outcome, never the way home.
"""

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Phase
from vmbackup.core import copying, homeward
from vmbackup.core.beginning import beginning
from vmbackup.core.ending import ENDING
from vmbackup.core.position import AT_BASE, Position, every
from vmbackup.core.rules import (
    Act,
    Fail,
    Go,
    Retry,
    Rule,
    Table,
    View,
    Wait,
    Write,
    always,
    because,
    failed,
    giving_up,
    last_error,
    location_in_trouble,
    location_problem,
    refused_by_the_dead,
    resting,
    tight,
    vm_gone,
    works_running,
)
from vmbackup.core.steps import Pivot, StartCommit, StartCopy, StopWorks, TakeSnapshot


def on_overlays(view: View) -> bool:
    return every(view, frozenset({Position.ON_OVERLAY}))


def some_left_base(view: View) -> bool:
    return not every(view, AT_BASE)


def begun(view: View) -> bool:
    return view.run.began


def _take(view: View) -> TakeSnapshot:
    return TakeSnapshot(tuple((disk.target, disk.overlay) for disk in view.run.disks))


def _take_intended(view: View) -> dict[str, object]:
    return {"began": True, "point_in_time": view.now, "overlay_at": view.now}


def _incomplete(view: View) -> str:
    return f"VM {view.run.domain}: not all disks are on our overlays: {view.error or 'the snapshot was interrupted'}"


def _not_taken(view: View) -> str:
    return f"VM {view.run.domain}: interrupted before the snapshot was taken"


def _stopped(view: View) -> str:
    return f"VM {view.run.domain} stopped before the snapshot was taken"


INCOMPLETE = because(Reason.SNAPSHOT_FAILED, _incomplete, heals=True)
INTERRUPTED = because(Reason.INTERRUPTED, _not_taken, heals=True)
STOPPED = because(Reason.SOURCE_LOST, _stopped, heals=True)

SNAPSHOT: Table = {
    **beginning(then=Phase.SNAPSHOTTING),
    # The point in time. The call is atomic: afterwards all disks are on our overlays, or none is.
    Phase.SNAPSHOTTING: (
        Rule("on our overlays", on_overlays, Go(Phase.COPYING)),
        Rule("some disk has left its base", some_left_base, Fail(INCOMPLETE, Phase.COMMITTING)),
        Rule("refused, the VM is gone", refused_by_the_dead(TakeSnapshot), Fail(STOPPED, Phase.CLEANING)),
        Rule("refused", failed(TakeSnapshot), Fail(last_error(Reason.SNAPSHOT_FAILED), Phase.CLEANING)),
        Rule("interrupted", begun, Fail(INTERRUPTED, Phase.CLEANING)),
        Rule("giving up", giving_up, Go(Phase.CLEANING)),
        Rule("VM gone", vm_gone, Fail(STOPPED, Phase.CLEANING)),
        Rule("the agent ends", copying.agent_stops, Fail(copying.STOPPING, Phase.CLEANING)),
        Rule("to be taken", always, Act(_take, _take_intended)),
    ),
    # The bases stand still and are copied. A crash of anything leaves the guest on the overlays, where it may stay.
    Phase.COPYING: (
        Rule("giving up, a copy runs", copying.copy_to_stop, Act(lambda _: StopWorks())),
        Rule("giving up", giving_up, Go(Phase.COMMITTING)),
        Rule("a disk left its overlay", copying.left_overlay, Fail(copying.LEFT, Phase.COPYING)),
        Rule("overlay limit", copying.limit_reached, Fail(copying.LIMIT, Phase.COPYING)),
        Rule("a copy stands still", copying.copy_stalled, Fail(copying.STALLED, Phase.COPYING)),
        Rule("location in trouble", location_in_trouble, Fail(copying.UNUSABLE, Phase.COPYING)),
        Rule("location nearly full", tight, Fail(copying.NEARLY_FULL, Phase.COPYING)),
        Rule("the agent ends", copying.agent_stops, Fail(copying.STOPPING, Phase.COPYING)),
        Rule("a copy failed", copying.a_copy("failed"), Fail(copying.COPY_FAILED, Phase.COPYING)),
        Rule("copy refused", failed(StartCopy), Fail(last_error(Reason.COPY_FAILED), Phase.COPYING)),
        Rule("a copy is done", copying.a_copy("done"), Write(copying.copied)),
        Rule("all copied", copying.all_copied, Go(Phase.COMMITTING)),
        Rule("a base to copy", copying.base_waits, Act(copying.copy)),
        Rule("copying", always, Wait(0.5, location_problem)),
    ),
    # The overlays are merged into their bases. A crash leaves the chain as it is; the commit is begun again.
    Phase.COMMITTING: (
        Rule("a copy runs", works_running, Act(lambda _: StopWorks())),
        Rule("a disk is lost", homeward.lost, Write(homeward.stranded)),
        Rule("taken home by somebody else", homeward.taken_home_by_others, Fail(copying.LEFT, Phase.COMMITTING)),
        Rule("on their bases", homeward.on_bases, Go(Phase.CLEANING, homeward.home)),
        Rule("all ready", homeward.all_ready, Go(Phase.PIVOTING)),
        Rule("commit refused", failed(StartCommit), Retry()),
        Rule("VM is off", homeward.some(Position.OFF), Wait(5.0, homeward.off_words)),
        Rule("an overlay to merge", homeward.overlay_waits, Act(homeward.commit, homeward.commit_intended)),
        Rule("the commit rests", homeward.commit_rests, Wait(1.0)),
        Rule("merging", always, Wait(0.2, homeward.merging_words)),
    ),
    # QEMU is told to write to the base. After a crash the source in the XML tells whether it does.
    Phase.PIVOTING: (
        Rule("a disk is lost", homeward.lost, Write(homeward.stranded)),
        Rule("on their bases", homeward.on_bases, Go(Phase.CLEANING, homeward.home)),
        Rule("the commit has gone", homeward.not_all_ready, Go(Phase.COMMITTING, homeward.pivot_undone)),
        Rule("pivot refused", failed(Pivot), Retry()),
        Rule("pivoted, not seen yet", homeward.pivoted_in_vain, Wait(0.5)),
        Rule("resting", resting, Wait(0.5)),
        Rule("ready", always, Act(homeward.pivot, homeward.pivot_intended)),
    ),
    # An overlay is removed only when its disk is on the base, live and in the definition.
    Phase.CLEANING: (
        Rule("a disk is lost", homeward.lost, Write(homeward.stranded)),
        Rule("not home", homeward.not_home, Go(Phase.COMMITTING, homeward.away_again)),
        Rule("remove refused", homeward.remove_refused, Retry(homeward.not_removed)),
        Rule("resting", resting, Wait(0.5)),
        Rule("an overlay to remove", homeward.may_remove, Act(homeward.remove)),
        Rule("an overlay stays", homeward.overlay_stays, Write(homeward.left_behind)),
        Rule("giving up", giving_up, Go(Phase.DISCARDING, homeward.never_away)),
        Rule("home", always, Go(Phase.VERIFYING)),
    ),
    **ENDING,
}
