"""What the rows of several phases of a restore look at and write down."""

from functools import partial

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import RestoreDisk
from vmbackup.core.facts import Work
from vmbackup.core.restore_path import after, success_at_end
from vmbackup.core.restore_rules import (
    Rule,
    View,
    act,
    always,
    because,
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
from vmbackup.core.steps import StartCopy, StartVerification

P = RestorePhase
LOOK_SECONDS = 0.5


def in_place(view: View) -> bool:
    return view.run.kind is RestoreKind.IN_PLACE


def in_the_way(view: View) -> bool:
    """Return whether the VM whose disks are to be replaced runs."""
    return in_place(view) and view.domain.alive and not all_swapped(view)


def all_swapped(view: View) -> bool:
    return {disk.target for disk in view.run.disks} <= view.files.swapped


def work_failed(view: View) -> bool:
    return any(work.state == "failed" for work in view.files.works.values())


def running(view: View) -> bool:
    return any(work.state == "running" for work in view.files.works.values())


def finished(view: View, kind: str) -> tuple[str, Work] | None:
    """Return a finished work of this kind that is not noted yet."""
    for target, work in view.files.works.items():
        disk = view.run.disk(target)
        noted = disk.copied if kind == "copy" else disk.verified
        if work.kind == kind and work.state == "done" and not noted:
            return target, work
    return None


def next_disk(view: View, *, verified: bool) -> RestoreDisk:
    return next(disk for disk in view.run.disks if not (disk.verified if verified else disk.copied))


def disks_left(view: View, *, verified: bool) -> bool:
    return any(not (disk.verified if verified else disk.copied) for disk in view.run.disks)


def noted(kind: str) -> dict[str, object]:
    return {"copied": True} if kind == "copy" else {"verified": True}


def note_finished(view: View, kind: str) -> dict[str, object]:
    found = finished(view, kind)
    assert found is not None, "the test has found it"
    return {"disks": view.run.with_disk(found[0], **noted(kind)).disks}


def starts_here(view: View) -> bool:
    return view.domain.alive


def vanished(view: View) -> bool:
    return view.domain.state == "absent"


def off(view: View) -> bool:
    return not view.domain.alive


def job(view: View) -> bool:
    return any(disk.job is not None for disk in view.domain.disks)


def broken(view: View) -> str:
    work = next(work for work in view.files.works.values() if work.state == "failed")
    return f"{view.run.label}: {work.error}"


def note_running(view: View) -> dict[str, object]:
    return {"running_at": view.run.running_at or view.now, **success_at_end(view)}


def runs_words(view: View) -> str:
    return f"VM {view.run.domain} runs: its disks can be replaced only while it is off. Shut it down and try again."


def used_words(view: View) -> str:
    disks = ", ".join(sorted(view.files.used))
    return (
        f"VM {view.run.domain} was started while its disks were changed and has the old image open of: {disks}. "
        "It gets its old disks back when it is off. Shut it down and try again."
    )


def works(kind: str, start: type[StartCopy] | type[StartVerification]) -> tuple[Rule, ...]:
    """Return the rows of a phase that does one work per disk, one after the other."""
    verified = kind == "verify"
    reason = Reason.VERIFICATION_FAILED if verified else Reason.COPY_FAILED
    left = partial(disks_left, verified=verified)
    return (
        Rule("giving up", giving_up, go(P.DISCARDING)),
        Rule("somebody has started the VM", in_the_way, fail(because(Reason.VM_RUNNING, runs_words))),
        Rule("a work failed", work_failed, fail(because(reason, broken))),
        Rule(
            "a work is done",
            lambda view: finished(view, kind) is not None,
            write(lambda view: note_finished(view, kind)),
        ),
        Rule("working", running, wait(LOOK_SECONDS)),
        Rule("cannot be started, for now", may_heal(start), retry()),
        Rule("cannot be started", failed(start), fail(last_error)),
        Rule("resting", resting, wait(LOOK_SECONDS)),
        Rule("a disk is left", left, act(lambda view: start(next_disk(view, verified=verified).target))),
        Rule("all disks are done", always, go(after, success_at_end)),
    )
