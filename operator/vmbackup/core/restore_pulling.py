"""An instant VM runs, and its data is brought from the set.

The guest runs on overlays, in a domain that is transient on purpose: QEMU takes the set's name out of an image
before what it has brought is on disk for certain. If it is killed in between, nobody may start the VM on such an
image; while there is no definition, nobody can. The image is put over the set again, and completed by qemu-img.
"""

from vmbackup.api.restore import RestorePhase
from vmbackup.core.restore_facts import Flatten, FlushDisks, ResumeDomain, StartPull
from vmbackup.core.restore_path import after, success_at_end
from vmbackup.core.restore_rules import (
    Move,
    Rule,
    View,
    act,
    always,
    done,
    failed,
    giving_up,
    go,
    resting,
    retry,
    wait,
    write,
)
from vmbackup.core.restore_seen import LOOK_SECONDS, broken, job, off, running, work_failed
from vmbackup.core.rules import rest_seconds

P = RestorePhase
# After a pull was last seen: QEMU takes its filter out of the graph, and is left alone meanwhile.
PULL_REST_SECONDS = 1.0


def all_pulled(view: View) -> bool:
    return all(disk.pulled for disk in view.run.disks)


def to_pull(view: View) -> bool:
    return any(disk.target not in view.files.flat for disk in view.run.disks)


def pull_next(view: View) -> StartPull:
    return StartPull(next(disk.target for disk in view.run.disks if disk.target not in view.files.flat))


def paused_by_us(view: View) -> bool:
    return view.run.flushing and view.domain.state == "paused"


def paused(view: View) -> bool:
    return view.domain.state == "paused"


def note_flushed(view: View) -> dict[str, object]:
    disks = tuple(disk.model_copy(update={"pulled": True}) for disk in view.run.disks)
    return {"disks": disks, "flushing": False, "tries": 0, "not_before": 0.0, "trouble": ""}


def flattened(view: View) -> list[str]:
    done_works = {target for target, work in view.files.works.items() if (work.kind, work.state) == ("copy", "done")}
    return [disk.target for disk in view.run.disks if not disk.pulled and disk.target in done_works]


def note_flattened(view: View) -> dict[str, object]:
    run = view.run
    for target in flattened(view):
        run = run.with_disk(target, pulled=True)
    return {"disks": run.disks}


def flatten_next(view: View) -> Flatten:
    return Flatten(next(disk.target for disk in view.run.disks if not disk.pulled))


def flatten_words(view: View) -> str:
    return f"VM {view.run.domain} has ended; the rest of its data is brought while it is off"


def pulling(view: View) -> Move:
    """Wait for the job, and a little longer."""
    changes = {"trouble": "", "not_before": view.now + PULL_REST_SECONDS}
    return Move(view.run.model_copy(update=changes), wait_seconds=LOOK_SECONDS)


def rest_after_work(view: View) -> Move:
    """Note why an image could not be completed, and try again later: the set is still there."""
    rest = rest_seconds(view.run.tries)
    changes = {
        "tries": view.run.tries + 1,
        "not_before": view.now + rest,
        "trouble": broken(view),
        "flattening": False,
    }
    return Move(view.run.model_copy(update=changes), wait_seconds=rest)


PULLING: tuple[Rule, ...] = (
    Rule("giving up", giving_up, go(P.DISCARDING)),
    Rule("all disks are complete", all_pulled, go(after, success_at_end)),
    Rule("ended, a disk was completed", lambda v: off(v) and bool(flattened(v)), write(note_flattened)),
    Rule("ended, completing a disk", lambda v: off(v) and running(v), wait(LOOK_SECONDS, flatten_words)),
    Rule("ended, resting", lambda v: off(v) and resting(v), wait(LOOK_SECONDS)),
    Rule(
        "ended, a disk cannot be completed",
        lambda v: off(v) and work_failed(v) and v.run.flattening,
        rest_after_work,
    ),
    Rule("ended", off, act(flatten_next, lambda _: {"flattening": True})),
    Rule("flushed", done(FlushDisks), write(note_flushed)),
    Rule("paused by us", paused_by_us, act(lambda _: ResumeDomain())),
    Rule("pulling", job, pulling),
    Rule("refused", lambda v: failed(StartPull)(v) or failed(FlushDisks)(v), retry()),
    Rule("resting", resting, wait(LOOK_SECONDS)),
    Rule("a disk is left", to_pull, act(pull_next, lambda v: {"not_before": v.now + PULL_REST_SECONDS})),
    Rule("paused by somebody", paused, wait(2.0, lambda v: f"VM {v.run.domain} is paused: let it go on")),
    Rule("to be flushed", always, act(lambda _: FlushDisks(), lambda _: {"flushing": True})),
)
