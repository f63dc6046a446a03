"""One pure function: what to do next, from the record and the facts.

First the rules that hold in every phase (PRELUDE), then the row of the phase in the method's table.
"""

from dataclasses import replace

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Failure, Freeze, Quiesced, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.beginning import FREEZE_LIMIT_SECONDS, required
from vmbackup.core.facts import Facts
from vmbackup.core.push import PUSH
from vmbackup.core.rules import (
    OUR_FILES_ONLY,
    Act,
    Move,
    Retry,
    Rule,
    Table,
    View,
    Wait,
    Write,
    done,
    failed,
    giving_up,
    in_vain,
    needs_hypervisor,
    rest_seconds,
    resting,
    vm_gone,
)
from vmbackup.core.snapshot import SNAPSHOT
from vmbackup.core.steps import ResumeGuest, ThawGuest, UnmountDirectory
from vmbackup.units import human_seconds

HYPERVISOR_AWAY_SECONDS = 1.0
THAW_REST_SECONDS = 1.0
RESUME_LOOK_SECONDS = 1.0
RESUME_TRIES_MAX = 5
# A freeze that was confirmed is undone with more patience than one of which nothing is known but that it failed.
THAW_TRIES_MAX = {Freeze.INTENDED: 5, Freeze.FROZEN: 60}
TABLES: dict[Method, Table] = {Method.PUSH: PUSH, Method.SNAPSHOT: SNAPSHOT}

# The phases in which a frozen guest is what we want, for a moment; in all others it is thawed first.
POINT_IN_TIME = frozenset({Phase.FREEZING, Phase.STARTING, Phase.SNAPSHOTTING})
# The guest writes to its own disks again, and no job of ours hinders it.
DISKS_AT_HOME = frozenset({Phase.CLEANING, Phase.VERIFYING, Phase.DISCARDING})
# Limits hold here, and what was begun must come to its end, even while the guest's agent refuses to thaw.
GOES_ON_FROZEN = frozenset({Phase.COPYING, Phase.COMMITTING, Phase.PIVOTING, Phase.CLEANING})
# From here on the outcome is fixed by what is on the disk.
SETTLED = frozenset({Phase.PUBLISHING, Phase.DISCARDING, Phase.DONE})


def _open(view: View) -> bool:
    return not giving_up(view) and view.run.phase not in SETTLED


def _to_thaw(view: View) -> bool:
    return view.run.maybe_frozen and view.run.phase not in POINT_IN_TIME


def _ended(outcome: Outcome, reason: Reason, message: str) -> dict[str, object]:
    return {"outcome": outcome, "failure": Failure(reason=reason, message=message)}


def _thawed(view: View) -> dict[str, object]:
    frozen_milliseconds = view.facts.last.value if view.facts.last else None
    if frozen_milliseconds is None:  # who froze it is gone, and with it the watchdog: it may have lasted until now
        frozen_milliseconds = max(0, round((view.now - (view.run.frozen_at or view.now)) * 1000))
    changes: dict[str, object] = {"freeze": Freeze.OVER, "frozen_milliseconds": frozen_milliseconds, "trouble": ""}
    in_time = frozen_milliseconds < FREEZE_LIMIT_SECONDS * 1000
    if view.run.quiesced is None or not view.run.quiesced.done or in_time:
        return changes
    message = f"the guest was thawed after {frozen_milliseconds} ms, before the point in time was certain"
    changes["quiesced"] = Quiesced(done=False, reason=Reason.FREEZE_FAILED, message=message)
    if required(view) and not giving_up(view):
        changes |= _ended(Outcome.FAILED, Reason.QUIESCE_FAILED, f"VM {view.run.domain}: {message}")
    return changes


def _thaw_refused(view: View) -> bool:
    return _to_thaw(view) and failed(ThawGuest)(view)


def _thaw_awaited(view: View) -> dict[str, object]:
    return {"thaw_not_before": view.now + THAW_REST_SECONDS, "trouble": view.error}


def _thaw_rests(view: View) -> bool:
    """Return whether a thaw was refused shortly before."""
    return _to_thaw(view) and 0.0 < view.run.thaw_not_before - view.now <= THAW_REST_SECONDS


def _only_thaw_is_left(view: View) -> bool:
    return _thaw_rests(view) and view.run.phase not in GOES_ON_FROZEN


def _thaw_is_next(view: View) -> bool:
    """Return whether it is time for a thaw, and what the table did meanwhile has been judged by it."""
    last = view.facts.last
    judged = last is None or isinstance(last.step, ThawGuest)
    return _to_thaw(view) and judged and not _thaw_rests(view)


def _no_more_thaws(view: View) -> bool:
    return _thaw_refused(view) and view.run.thaw_tries >= THAW_TRIES_MAX[view.run.freeze]


def _thaw_given_up(view: View) -> dict[str, object]:
    message = f"the guest could not be thawed: {view.error}. Run 'virsh domfsthaw {view.run.domain}'."
    changes: dict[str, object] = {
        "freeze": Freeze.OVER,
        "quiesced": Quiesced(done=False, reason=Reason.FREEZE_FAILED, message=message),
    }
    if view.run.freeze is Freeze.FROZEN:
        changes |= _ended(Outcome.STRANDED, Reason.FREEZE_FAILED, f"VM {view.run.domain}: {message}")
    return changes


def _to_resume(view: View) -> bool:
    """Return whether QEMU has paused the guest for an I/O error meanwhile, and what it was for is over."""
    seen, run = view.facts.domain, view.run
    paused = seen is not None and seen.paused_by_io_error and not run.paused
    return paused and run.began and run.phase in DISKS_AT_HOME and run.resume_tries <= RESUME_TRIES_MAX


def _no_more_resumes(view: View) -> bool:
    return _to_resume(view) and view.run.resume_tries == RESUME_TRIES_MAX


def _stays_paused(view: View) -> dict[str, object]:
    domain = view.run.domain
    words = f"VM {domain} is paused by an I/O error: look at its storage, then run 'virsh resume {domain}'."
    return {"resume_tries": RESUME_TRIES_MAX + 1, "left": f"{view.run.left} {words}".strip()}


def _resume_rests(view: View) -> bool:
    """Return whether the guest was told to go on shortly before: making room on its storage takes somebody a while."""
    return _to_resume(view) and view.run.resume_tries > 0 and resting(view)


def _resume_intended(view: View) -> dict[str, object]:
    trouble = f"VM {view.run.domain}: QEMU has paused the guest for an I/O error; it is told to go on"
    tries = view.run.resume_tries
    return {"resume_tries": tries + 1, "not_before": view.now + rest_seconds(tries), "trouble": trouble}


def _mounted(view: View) -> bool:
    return view.store.mounted


def _to_unmount(view: View) -> bool:
    """Return whether the pod still sees the set, or may, and nobody writes to it any more."""
    return view.run.phase in OUR_FILES_ONLY and (view.run.mounted or _mounted(view))


def _unmounted(view: View) -> bool:
    return _to_unmount(view) and done(UnmountDirectory)(view) and not _mounted(view)


def _unmount_rests(view: View) -> bool:
    return _to_unmount(view) and resting(view)


def _unmount_refused(view: View) -> bool:
    refused = failed(UnmountDirectory)(view) or in_vain(UnmountDirectory, _mounted)(view)
    return _to_unmount(view) and refused


def _still_mounted(view: View) -> str:
    directory = f"{view.run.location_path}/{view.run.partial_path}"
    return view.error or f"{directory} is still mounted into the launcher pod after it was unmounted"


PRELUDE = (
    Rule(
        "cancelled",
        lambda view: _open(view) and view.facts.wishes.cancel,
        Write(lambda _: _ended(Outcome.CANCELLED, Reason.CANCELLED, "cancelled by spec.cancel")),
    ),
    Rule(
        "deleted",
        lambda view: _open(view) and view.facts.wishes.deleted,
        Write(lambda _: _ended(Outcome.CANCELLED, Reason.DELETED, "the VMBackup was deleted while it ran")),
    ),
    Rule(
        "deadline",
        lambda view: _open(view) and view.now > view.run.deadline_at,
        Write(
            lambda view: _ended(
                Outcome.FAILED,
                Reason.DEADLINE_EXCEEDED,
                f"VM {view.run.domain}: not done after {human_seconds(view.run.spec.deadline_seconds)} in phase "
                f"{view.run.phase}{_last_words(view)}",
            )
        ),
    ),
    Rule("thawed", lambda view: _to_thaw(view) and done(ThawGuest)(view), Write(_thawed)),
    Rule("nothing to thaw", lambda view: _to_thaw(view) and vm_gone(view), Write(lambda _: {"freeze": Freeze.OVER})),
    Rule("cannot thaw", _no_more_thaws, Write(_thaw_given_up)),
    Rule("thaw refused", _thaw_refused, Write(_thaw_awaited)),
    Rule("thaw rests", _only_thaw_is_left, Wait(THAW_REST_SECONDS)),
    Rule(
        "maybe frozen",
        _thaw_is_next,
        Act(lambda _: ThawGuest(), lambda view: {"thaw_tries": view.run.thaw_tries + 1}),
    ),
    # A pod must not write to what is being verified, and no mount may be left behind, whatever the outcome.
    Rule(
        "unmounted",
        _unmounted,
        Write(lambda _: {"mounted": False, "tries": 0, "not_before": 0.0, "trouble": ""}),
    ),
    Rule("unmount rests", _unmount_rests, Wait(1.0)),
    Rule("unmount refused", _unmount_refused, Retry(_still_mounted)),
    Rule("shown to a pod", _to_unmount, Act(lambda _: UnmountDirectory())),
    Rule("resumed in vain", _resume_rests, Wait(RESUME_LOOK_SECONDS)),
    Rule("stays paused", _no_more_resumes, Write(_stays_paused)),
    Rule("paused by an I/O error", _to_resume, Act(lambda _: ResumeGuest(), _resume_intended)),
)


def _last_words(view: View) -> str:
    trouble = view.run.trouble or (view.run.failure.message if view.run.failure else "")
    return f" ({trouble})" if trouble else ""


def _saying_why_frozen(view: View, move: Move) -> Move:
    """Keep telling why the guest is not thawed while the table goes on, whose rows know nothing of it."""
    if not _thaw_rests(view) or move.run.trouble:
        return move
    return replace(move, run=move.run.model_copy(update={"trouble": view.run.trouble}))


def decide(run: Run, facts: Facts, now: float) -> Move:
    """Return the next move: at most one act, and the record to write before it. No I/O, no clock.

    While the hypervisor is away nothing is decided but what touches only files of ours.
    """
    if facts.domain is None and needs_hypervisor(run):
        return Move(run, wait_seconds=HYPERVISOR_AWAY_SECONDS)
    view = View(run, facts, now)
    for rule in (*PRELUDE, *TABLES[run.method][run.phase]):
        if rule.test(view):
            return _saying_why_frozen(view, rule.effect.move(view))
    raise AssertionError(f"no rule of phase {run.phase} holds for run {run.uid}")
