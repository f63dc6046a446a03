"""Push: libvirt writes all disks into the set in one job, one point in time.

Preparing → Freezing → Starting → Copying → Verifying → Publishing → Done
"""

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Phase
from vmbackup.core.beginning import beginning
from vmbackup.core.ending import ENDING
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
    done,
    failed,
    giving_up,
    last_error,
    refused_by_the_dead,
    resting,
    stalled,
    tight,
    vm_gone,
)
from vmbackup.core.steps import AbortJob, BeginPush, LimitSpeed
from vmbackup.errors import NotYet
from vmbackup.units import human_bytes, human_seconds

GHOST_SECONDS = 5.0
LIMIT_TRIES_MAX = 5  # half a minute: a limit is never ignored for long
# QEMU fails a guest's write whose old data it cannot copy first, and libvirt has no switch for it (decision 0016).
IO_ERRORS = ("Input/output error", "Read-only file system")
GUEST_WRITES = (
    "Before that, QEMU may have failed writes of the guest whose old data it could not copy first: look into the "
    "guest's log. A guest whose disks have error_policy='stop' is paused and resumed instead."
)


def targets(view: View) -> tuple[tuple[str, str], ...]:
    """Return target and path of every image as libvirt sees it, in disk order."""
    run = view.run
    return tuple((disk.target, f"{run.target_directory}/{disk.image}") for disk in run.disks)


def job_runs(view: View) -> bool:
    """Return whether our job runs: libvirt's jobs have no owner, but their targets lie in our directory."""
    job = view.domain.job
    return job is not None and bool(job.targets) and set(job.targets.items()) <= set(targets(view))


def foreign_job(view: View) -> bool:
    """Return whether somebody else's job runs. There is one at a time, so ours is over, and what it said is lost."""
    return view.domain.job is not None and not job_runs(view)


def begun(view: View) -> bool:
    return view.run.began


def over_already(view: View) -> bool:
    return view.run.began and view.domain.completed is not None


def stop_job(view: View) -> bool:
    return giving_up(view) and job_runs(view)


def job_stopping(view: View) -> bool:
    return stop_job(view) and done(AbortJob)(view)


def abort_refused(view: View) -> bool:
    return stop_job(view) and failed(AbortJob)(view)


def abort_rests(view: View) -> bool:
    return stop_job(view) and resting(view)


def nearly_full(view: View) -> bool:
    return job_runs(view) and tight(view)


def ghost(view: View) -> bool:
    """Return whether libvirt shows our job with nothing behind it: a daemon died just as the job ended.

    Seen on libvirt 9.0 and 11.3: 0 of 0 bytes, no disk with a block job, for ever; abortJob ends it.
    """
    job = view.domain.job
    empty = job_runs(view) and job is not None and job.bytes_total == 0
    return empty and not any(disk.job for disk in view.domain.disks) and view.facts.still_seconds > GHOST_SECONDS


def job_stalled(view: View) -> bool:
    return job_runs(view) and stalled(view)


def limit_refused(view: View) -> bool:
    return job_runs(view) and failed(LimitSpeed)(view)


def limit_not_heard(view: View) -> bool:
    """Return whether nobody has refused the limit: the daemon was away, and will hear it when it is back."""
    last = view.facts.last
    away = last is not None and isinstance(last.error, NotYet)
    return limit_refused(view) and away and view.run.tries < LIMIT_TRIES_MAX


def limit_wanted(view: View) -> bool:
    wanted = view.run.spec.limit_bytes_per_second > 0 and not view.run.limited
    return job_runs(view) and wanted and not resting(view)


def finished_well(view: View) -> bool:
    """Return whether libvirt says so: also of a VM that has been shut down since, but of a new QEMU it is not ours."""
    completed = view.domain.completed
    success = completed is not None and completed.operation == "backup" and completed.success
    return success and not (view.domain.alive and vm_gone(view))


def finished_badly(view: View) -> bool:
    return view.domain.completed is not None and not finished_well(view) and not vm_gone(view)


def _begin(view: View) -> BeginPush:
    return BeginPush(targets(view))


def _begin_intended(view: View) -> dict[str, object]:
    return {"began": True, "point_in_time": view.now}


def _limit(view: View) -> LimitSpeed:
    return LimitSpeed(tuple(disk.target for disk in view.run.disks), view.run.spec.limit_bytes_per_second)


def _limited(_: View) -> dict[str, object]:
    return {"limited": True, "tries": 0, "not_before": 0.0, "trouble": ""}


def _copied(view: View) -> dict[str, object]:
    return {"disks": tuple(disk.model_copy(update={"copied": True}) for disk in view.run.disks)}


def _not_started(view: View) -> str:
    return f"VM {view.run.domain}: interrupted while the job was being started; it does not run"


def _gone_before(view: View) -> str:
    return f"VM {view.run.domain} stopped before the job had begun"


def _gone(view: View) -> str:
    return f"VM {view.run.domain} stopped while it was copied; libvirt dropped the copy"


def _nearly_full(view: View) -> str:
    return (
        f"VM {view.run.domain}: only {human_bytes(view.store.free_bytes)} are left in {view.run.location_path}; "
        "the job was stopped before the file system was full"
    )


def _stalled(view: View) -> str:
    return (
        f"VM {view.run.domain}: the backup job has not moved for {human_seconds(view.facts.still_seconds)} (is "
        f"{view.run.location_path} still answering?); it was stopped"
    )


def _ghost(view: View) -> str:
    return (
        f"VM {view.run.domain}: libvirt shows the backup job, but nothing copies any more (the daemon died as the job "
        "ended), so the copy is not trusted"
    )


def _job_error(view: View) -> str:
    error = view.domain.completed.error if view.domain.completed else ""
    words = f"VM {view.run.domain}: libvirt's backup job failed: {error or 'no reason given, QEMU may have ended'}"
    return f"{words}. {GUEST_WRITES}" if any(each in error for each in IO_ERRORS) else words


def _hidden(view: View) -> str:
    operation = view.domain.job.operation if view.domain.job else "new"
    return (
        f"VM {view.run.domain}: the job is gone, and a {operation} job that is not ours hides its result, so the copy "
        "is not trusted"
    )


def _unknown(view: View) -> str:
    return (
        f"VM {view.run.domain}: the job is gone and libvirt kept no result, so the copy is not trusted "
        "(the daemon was restarted, or another tool read the statistics)"
    )


INTERRUPTED = because(Reason.INTERRUPTED, _not_started, heals=True)
GONE_BEFORE = because(Reason.SOURCE_LOST, _gone_before, heals=True)
GONE = because(Reason.SOURCE_LOST, _gone, heals=True)
NEARLY_FULL = because(Reason.NO_SPACE, _nearly_full)
GHOST = because(Reason.OUTCOME_UNKNOWN, _ghost, heals=True)
STALLED = because(Reason.STALLED, _stalled, heals=True)
JOB_FAILED = because(Reason.BACKUP_JOB_FAILED, _job_error, heals=True)
HIDDEN = because(Reason.OUTCOME_UNKNOWN, _hidden, heals=True)
UNKNOWN = because(Reason.OUTCOME_UNKNOWN, _unknown, heals=True)

PUSH: Table = {
    **beginning(then=Phase.STARTING),
    # The point in time. After a crash: the job is there, or its statistics are, or the attempt is void.
    Phase.STARTING: (
        Rule("the job runs", job_runs, Go(Phase.COPYING)),
        Rule("refused, the VM is gone", refused_by_the_dead(BeginPush), Fail(GONE_BEFORE, Phase.DISCARDING)),
        Rule("refused", failed(BeginPush), Fail(last_error(Reason.BACKUP_JOB_FAILED), Phase.DISCARDING)),
        Rule("begun", done(BeginPush), Go(Phase.COPYING)),
        Rule("over already", over_already, Go(Phase.COPYING)),
        Rule("interrupted", begun, Fail(INTERRUPTED, Phase.DISCARDING)),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("VM gone", vm_gone, Fail(GONE_BEFORE, Phase.DISCARDING)),
        Rule("to be begun", always, Act(_begin, _begin_intended)),
    ),
    # QEMU copies. A crash of the agent or of libvirtd leaves the job running: it is adopted.
    Phase.COPYING: (
        Rule("the job is stopping", job_stopping, Wait(0.2)),
        Rule("abort refused", abort_refused, Retry()),
        Rule("resting", abort_rests, Wait(0.5)),
        Rule("giving up, the job runs", stop_job, Act(lambda _: AbortJob())),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule("location nearly full", nearly_full, Fail(NEARLY_FULL, Phase.COPYING)),
        Rule("a job without work", ghost, Fail(GHOST, Phase.COPYING)),
        Rule("the job stands still", job_stalled, Fail(STALLED, Phase.COPYING)),
        Rule("limit not heard", limit_not_heard, Retry()),
        Rule("limit refused", limit_refused, Fail(last_error(Reason.SPEED_LIMIT_UNSUPPORTED), Phase.COPYING)),
        Rule("limit in force", done(LimitSpeed), Write(_limited)),
        Rule("limit wanted", limit_wanted, Act(_limit)),
        Rule("copying", job_runs, Wait(0.5)),
        Rule("somebody else's job hides the result", foreign_job, Fail(HIDDEN, Phase.DISCARDING)),
        Rule("finished well", finished_well, Go(Phase.VERIFYING, _copied)),
        Rule("finished badly", finished_badly, Fail(JOB_FAILED, Phase.DISCARDING)),
        Rule("VM gone", vm_gone, Fail(GONE, Phase.DISCARDING)),
        Rule("no job, no result", always, Fail(UNKNOWN, Phase.DISCARDING)),
    ),
    **ENDING,
}
