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
    tight,
    vm_gone,
)  # fmt: skip
from vmbackup.core.steps import AbortJob, BeginPush, LimitSpeed
from vmbackup.units import human_bytes


def targets(view: View) -> tuple[tuple[str, str], ...]:
    """Return target and absolute path of every image, in disk order."""
    run = view.run
    return tuple((disk.target, f"{run.location_path}/{run.partial_path}/{disk.image}") for disk in run.disks)


def ours_running(view: View) -> bool:
    """Return whether the running job writes to our directory: libvirt's jobs have no owner, their targets do."""
    job = view.domain.job
    return job is not None and bool(job.targets) and dict(job.targets) == dict(targets(view))


def foreign_running(view: View) -> bool:
    return view.domain.job is not None and not ours_running(view)


def finished_well(view: View) -> bool:
    completed = view.domain.completed
    return completed is not None and completed.operation == "backup" and completed.success


def finished_badly(view: View) -> bool:
    completed = view.domain.completed
    return completed is not None and not finished_well(view)


def _job_error(view: View) -> str:
    error = view.domain.completed.error if view.domain.completed else ""
    return f"VM {view.run.domain}: libvirt's backup job failed: {error or 'no reason given, QEMU may have ended'}"


def _tight(view: View) -> str:
    return (
        f"VM {view.run.domain}: only {human_bytes(view.store.free_bytes)} are left in {view.run.location_path}; "
        "the job was stopped before the file system was full"
    )


def limit_wanted(view: View) -> bool:
    return view.run.spec.limit_bytes_per_second > 0 and not view.run.limited


PUSH: Table = {
    **beginning(then=Phase.STARTING),
    # The point in time. A crash here: the job is there, or its statistics are, or the attempt is void.
    Phase.STARTING: (
        Rule("our job runs", ours_running, Go(Phase.COPYING)),
        Rule("job refused", failed(BeginPush), Fail(last_error(Reason.BACKUP_JOB_FAILED), Phase.DISCARDING)),
        Rule("job begun", done(BeginPush), Go(Phase.COPYING)),
        Rule("over already", lambda view: view.run.began and view.domain.completed is not None, Go(Phase.COPYING)),
        Rule(
            "interrupted",
            lambda view: view.run.began,
            Fail(
                because(
                    Reason.INTERRUPTED,
                    lambda view: f"VM {view.run.domain}: interrupted while the job was being started; it does not run",
                    heals=True,
                ),
                Phase.DISCARDING,
            ),
        ),
        Rule("giving up", giving_up, Go(Phase.DISCARDING)),
        Rule(
            "VM gone",
            vm_gone,
            Fail(
                because(
                    Reason.SOURCE_LOST, lambda view: f"VM {view.run.domain} stopped before the job began", heals=True
                ),
                Phase.DISCARDING,
            ),
        ),
        Rule(
            "to be started",
            always,
            Act(
                lambda view: BeginPush(targets(view)),
                lambda view: {"began": True, "point_in_time": view.now},
            ),
        ),
    ),
    # QEMU copies. A crash of the agent or of libvirtd leaves the job running: it is adopted.
    Phase.COPYING: (
        Rule(
            "aborted, not over yet",
            lambda view: giving_up(view) and ours_running(view) and done(AbortJob)(view),
            Wait(0.2),
        ),
        Rule("giving up, job runs", lambda view: giving_up(view) and ours_running(view), Act(lambda _: AbortJob())),
        Rule("giving up", lambda view: giving_up(view) and not foreign_running(view), Go(Phase.DISCARDING)),
        Rule(
            "location nearly full",
            lambda view: ours_running(view) and tight(view),
            Fail(because(Reason.NO_SPACE, _tight), Phase.COPYING),
        ),
        Rule(
            "speed limit refused",
            lambda view: ours_running(view) and failed(LimitSpeed)(view),
            Fail(last_error(Reason.SPEED_LIMIT_UNSUPPORTED), Phase.COPYING),
        ),
        Rule("speed limit in force", done(LimitSpeed), Write(lambda _: {"limited": True})),
        Rule(
            "speed limit wanted",
            lambda view: ours_running(view) and limit_wanted(view),
            Act(
                lambda view: LimitSpeed(
                    tuple(disk.target for disk in view.run.disks), view.run.spec.limit_bytes_per_second
                )
            ),
        ),
        Rule("copying", ours_running, Wait(0.5)),
        Rule("somebody else's job hides the result", foreign_running, Wait(1.0)),
        Rule("job finished well", finished_well, Go(Phase.VERIFYING, lambda view: {"disks": _all_copied(view)})),
        Rule(
            "job failed",
            lambda view: finished_badly(view) and not vm_gone(view),
            Fail(because(Reason.BACKUP_JOB_FAILED, _job_error, heals=True), Phase.DISCARDING),
        ),
        Rule(
            "VM gone",
            vm_gone,
            Fail(
                because(
                    Reason.SOURCE_LOST,
                    lambda view: f"VM {view.run.domain} stopped while it was copied; libvirt dropped the copy",
                    heals=True,
                ),
                Phase.DISCARDING,
            ),
        ),
        Rule(
            "no job, no result",
            always,
            Fail(
                because(
                    Reason.OUTCOME_UNKNOWN,
                    lambda view: (
                        f"VM {view.run.domain}: the job is gone and libvirt kept no result, so the copy is not "
                        "trusted (the daemon was restarted, or another tool read the statistics)"
                    ),
                    heals=True,
                ),
                Phase.DISCARDING,
            ),
        ),
    ),
    **ENDING,
}


def _all_copied(view: View) -> object:
    return tuple(disk.model_copy(update={"copied": True}) for disk in view.run.disks)
