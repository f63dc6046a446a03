"""Restore: every target takes a part of the phases, in this order.

NewDomain  Preparing → Copying → Verifying → Placing → Defining → (Starting) → Cleaning → Done
Disks      Preparing → Copying → Verifying → Placing → Cleaning → Done
InPlace    Preparing → Copying → Verifying → Placing → (Starting) → Cleaning → Done
Instant    Preparing → Verifying → Placing → Starting → Pulling → Defining → Cleaning → Done
Proof      Preparing → Verifying → (Starting → Proving) → Discarding → Done

Verifying looks at the copies, or at the set itself where nothing is copied. What does not succeed goes through
Discarding, which undoes by what it sees: domain, swapped names, files, protection of the set.
"""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import NEW_VM_KINDS, RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.restore_facts import (
    Define,
    Place,
    Prepare,
    Release,
    RemoveDomain,
    RemoveFiles,
    RestoreFacts,
    StartDomain,
    Swap,
    SwapBack,
)
from vmbackup.core.restore_path import after, needs_hypervisor, success_at_end
from vmbackup.core.restore_proving import PROVING, WRITING
from vmbackup.core.restore_pulling import PULLING
from vmbackup.core.restore_rules import (
    TRIES_MAX,
    Move,
    Rule,
    View,
    act,
    always,
    because,
    done,
    fail,
    failed,
    giving_up,
    go,
    last_error,
    may_heal,
    resting,
    retry,
    wait,
    write,
)
from vmbackup.core.restore_seen import (
    LOOK_SECONDS,
    all_swapped,
    in_place,
    in_the_way,
    note_running,
    running,
    runs_words,
    starts_here,
    used_words,
    vanished,
    works,
)
from vmbackup.core.steps import StartCopy, StartVerification, StopWorks
from vmbackup.units import human_seconds

P = RestorePhase
HYPERVISOR_AWAY_SECONDS = 1.0


def swap_next(view: View) -> Swap:
    return Swap(next(disk.target for disk in view.run.disks if disk.target not in view.files.swapped))


def swap_back_next(view: View) -> SwapBack:
    return SwapBack(next(disk.target for disk in view.run.disks if disk.target in view.files.swapped))


def domain_to_remove(view: View) -> bool:
    return view.run.defined and view.run.kind in NEW_VM_KINDS and view.domain.state != "absent"


def stays(view: View) -> dict[str, object]:
    return {"left": f"{view.error} Remove it by hand.", "finished_at": view.now, "phase": P.DONE}


TABLE: dict[RestorePhase, tuple[Rule, ...]] = {
    # The set is checked and protected, the working directory made. After a crash: done again.
    P.PREPARING: (
        Rule("giving up", giving_up, go(P.DISCARDING)),
        Rule("the VM runs", in_the_way, fail(because(Reason.VM_RUNNING, runs_words))),
        Rule("prepared", done(Prepare), go(after)),
        Rule("not now", may_heal(Prepare), retry()),
        Rule("refused", failed(Prepare), fail(last_error)),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("to be prepared", always, act(lambda _: Prepare(), lambda _: {"begun": True})),
    ),
    # Copies die with the agent and are begun again.
    P.COPYING: works("copy", StartCopy),
    P.VERIFYING: works("verify", StartVerification),
    # One rename per directory, or per disk in place; who has which name is seen, not remembered.
    P.PLACING: (
        Rule("giving up", giving_up, go(P.DISCARDING)),
        Rule("in its place", lambda v: not in_place(v) and v.files.placed, go(after, success_at_end)),
        # The VM may have come up between the last look and a rename: then QEMU has the old image, without its name.
        Rule("an old disk is in use", lambda v: bool(v.files.used), fail(because(Reason.VM_RUNNING, used_words))),
        Rule("all disks have changed", lambda v: in_place(v) and all_swapped(v), go(after, success_at_end)),
        Rule("somebody has started the VM", in_the_way, fail(because(Reason.VM_RUNNING, runs_words))),
        Rule("not now", lambda v: may_heal(Place)(v) or may_heal(Swap)(v), retry()),
        Rule("refused", lambda v: failed(Place)(v) or failed(Swap)(v), fail(last_error)),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("a disk to be changed", in_place, act(swap_next)),
        Rule("to be placed", always, act(lambda _: Place())),
    ),
    P.DEFINING: (
        Rule("giving up", giving_up, go(P.DISCARDING)),
        Rule("defined", lambda v: v.run.defined and not vanished(v) and v.domain.persistent, go(after, success_at_end)),
        Rule("not now", may_heal(Define), retry()),
        Rule("refused", failed(Define), fail(last_error)),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("to be defined", always, act(lambda _: Define(), lambda _: {"defined": True})),
    ),
    P.STARTING: (
        Rule("giving up", giving_up, go(P.DISCARDING)),
        Rule("running", starts_here, go(after, note_running)),
        Rule("ran, and ended by itself", done(StartDomain), go(after, note_running)),
        Rule("not now", may_heal(StartDomain), retry()),
        Rule("refused", failed(StartDomain), fail(last_error)),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("to be started", always, act(lambda _: StartDomain(), lambda _: {"defined": True})),
    ),
    P.PROVING: PROVING,
    P.PULLING: PULLING,
    P.CLEANING: (
        Rule("clean", done(Release), go(P.DONE, lambda v: {"finished_at": v.now})),
        Rule("not for ever", lambda v: failed(Release)(v) and v.run.tries >= TRIES_MAX, write(stays)),
        Rule("not now", failed(Release), retry()),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("to be cleaned", always, act(lambda _: Release())),
    ),
    # The way back, by what is seen. A guest is never left without the disks that it runs on.
    P.DISCARDING: (
        Rule("works run", running, act(lambda _: StopWorks())),
        *WRITING,
        Rule("the domain cannot be removed", failed(RemoveDomain), retry()),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("our domain is there", domain_to_remove, act(lambda _: RemoveDomain())),
        Rule(
            "the VM runs on disks that were changed",
            lambda v: in_place(v) and v.domain.alive and bool(v.files.swapped),
            wait(2.0, lambda v: f"VM {v.run.domain} was started while its disks were changed: shut it down"),
        ),
        Rule("cannot be changed back", failed(SwapBack), retry()),
        Rule("changed disks", lambda v: in_place(v) and bool(v.files.swapped), act(swap_back_next)),
        Rule("removed", done(RemoveFiles), go(P.DONE, lambda v: {"finished_at": v.now})),
        Rule("not for ever", lambda v: failed(RemoveFiles)(v) and v.run.tries >= TRIES_MAX, write(stays)),
        Rule("cannot be removed", failed(RemoveFiles), retry()),
        Rule("nothing was begun", lambda v: not v.run.begun, go(P.DONE, lambda v: {"finished_at": v.now})),
        Rule("to be removed", always, act(lambda _: RemoveFiles())),
    ),
    P.DONE: (Rule("over", always, lambda v: Move(v.run, wait_seconds=None)),),
}


def undecided(view: View) -> bool:
    run = view.run
    # A VM that we may have started on its new disks cannot be given the old ones: it is too late to go back.
    too_late = run.kind is RestoreKind.IN_PLACE and run.phase is P.STARTING
    return run.outcome is None and not too_late and run.phase not in (P.CLEANING, P.DISCARDING, P.DONE)


def guest_lives(view: View) -> bool:
    """Return whether a VM of the user's runs on it: then only a cancel may end it."""
    return view.run.kind is RestoreKind.INSTANT and view.run.running_at is not None


def ended(outcome: Outcome, reason: Reason, message: str) -> dict[str, object]:
    return {"outcome": outcome, "failure": Failure(reason=reason, message=message)}


PRELUDE = (
    Rule(
        "cancelled",
        lambda v: undecided(v) and v.facts.wishes.cancel,
        write(lambda _: ended(Outcome.CANCELLED, Reason.CANCELLED, "cancelled by spec.cancel")),
    ),
    Rule(
        "deleted",
        lambda v: undecided(v) and v.facts.wishes.deleted and not guest_lives(v),
        write(lambda _: ended(Outcome.CANCELLED, Reason.DELETED, "the VMRestore was deleted while it ran")),
    ),
    Rule(
        "deadline",
        lambda v: undecided(v) and v.now > v.run.deadline_at and not guest_lives(v),
        write(
            lambda v: ended(
                Outcome.FAILED,
                Reason.DEADLINE_EXCEEDED,
                f"{v.run.label}: not restored after {human_seconds(v.run.spec.deadline_seconds)} in phase {v.run.phase}"
                + (f" ({v.run.trouble})" if v.run.trouble else ""),
            )
        ),
    ),
)


def decide(run: RestoreRun, facts: RestoreFacts, now: float) -> Move:
    """Return the next move: at most one act, and the record to write before it. No I/O, no clock."""
    view = View(run, facts, now)
    for rule in PRELUDE:
        if rule.test(view):
            return rule.effect(view)
    if facts.domain is None and needs_hypervisor(run):
        return Move(run.model_copy(update={"trouble": facts.hypervisor_problem}), wait_seconds=HYPERVISOR_AWAY_SECONDS)
    if facts.files.problem and undecided(view) and run.phase is not P.PULLING:
        return Move(run.model_copy(update={"trouble": facts.files.problem}), wait_seconds=HYPERVISOR_AWAY_SECONDS)
    for rule in TABLE[run.phase]:
        if rule.test(view):
            return rule.effect(view)
    raise AssertionError(f"no rule of phase {run.phase} holds for restore {run.uid}")
