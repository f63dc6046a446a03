"""How every backup begins: make room, freeze. Nothing of the VM is changed before Freezing."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Quiesced
from vmbackup.api.vmbackup import Outcome, Phase, Quiesce
from vmbackup.core.copying import OVERLAY_RESERVE_BYTES, agent_stops, overlay_space_low
from vmbackup.core.rules import (
    Act,
    Fail,
    Go,
    Rule,
    Table,
    View,
    Wait,
    always,
    because,
    done,
    failed,
    giving_up,
    in_vain,
    last_error,
    location_problem,
    vm_gone,
)
from vmbackup.core.steps import DrainStatistics, FreezeGuest, MakeDirectory, MountDirectory
from vmbackup.units import human_bytes

FREEZE_LIMIT_SECONDS = 8.0
LOCATION_REST_SECONDS = 2.0


def location_away(view: View) -> bool:
    """Return whether the location cannot be used now, but may be later: not mounted, or its server is away."""
    return bool(view.store.problem) and view.store.passing


def location_unusable(view: View) -> bool:
    return bool(view.store.problem) and not view.store.passing


def foreign_work(view: View) -> bool:
    """Return whether somebody else works on the VM: before we begin every job is foreign."""
    return view.domain.job is not None or any(disk.job is not None for disk in view.domain.disks)


def foreign_words(view: View) -> str:
    if view.domain.job is not None:
        return f"VM {view.run.domain}: a {view.domain.job.operation} job runs that is not ours; it is waited for"
    disk = next(disk for disk in view.domain.disks if disk.job is not None)
    kind = disk.job.kind if disk.job else ""
    return f"VM {view.run.domain}, disk {disk.target}: a {kind} block job runs that is not ours; it is waited for"


def not_made_words(view: View) -> str:
    return f"{view.run.location_path}/{view.run.partial_path} was made, but cannot be seen"


def not_mounted_words(view: View) -> str:
    directory = f"{view.run.location_path}/{view.run.partial_path}"
    return f"{directory} was mounted into the launcher pod, but the mount cannot be seen"


def not_drained_words(view: View) -> str:
    return f"VM {view.run.domain}: libvirt keeps the statistics of an earlier job, although they were read"


def agent_stops_unfrozen(view: View) -> bool:
    return agent_stops(view) and not view.run.maybe_frozen


def ending_words(view: View) -> str:
    return f"VM {view.run.domain}: the agent was asked to end; the next one goes on"


def needed_bytes(view: View) -> int:
    return sum(disk.allocated_bytes for disk in view.run.disks)


def too_little_space(view: View) -> bool:
    return view.store.free_bytes - view.store.reserve_bytes < needed_bytes(view)


def no_directory(view: View) -> bool:
    return not view.store.partial


def not_mounted(view: View) -> bool:
    """Return whether libvirt is in a pod that does not see the working directory."""
    return view.run.launcher is not None and not view.store.mounted


def old_statistics(view: View) -> bool:
    return view.domain.completed is not None


def unwanted(view: View) -> bool:
    return view.run.spec.quiesce is Quiesce.NEVER


def required(view: View) -> bool:
    return view.run.spec.quiesce is Quiesce.REQUIRED


def no_agent(view: View) -> bool:
    """Return whether a freeze cannot be asked for, and was not."""
    return not view.run.maybe_frozen and not (view.domain.guest_agent and view.domain.state == "running")


def required_without_agent(view: View) -> bool:
    return required(view) and no_agent(view)


def required_but_refused(view: View) -> bool:
    return required(view) and failed(FreezeGuest)(view)


def _touched(view: View) -> str:
    return "nothing was touched" if view.run.attempt == 1 else f"attempt {view.run.attempt} was not begun"


def _no_space(view: View) -> str:
    return (
        f"VM {view.run.domain}: the disks hold {human_bytes(needed_bytes(view))}, but {view.run.location_path} has "
        f"{human_bytes(view.store.free_bytes)} free and must keep {human_bytes(view.store.reserve_bytes)}; "
        f"{_touched(view)}. Free space in the location, or exclude disks."
    )


def _no_overlay_space(view: View) -> str:
    return (
        f"VM {view.run.domain}: only {human_bytes(view.store.overlay_free_bytes or 0)} are free beside its disks, and "
        f"{human_bytes(OVERLAY_RESERVE_BYTES)} must be for what the guest writes while they are copied; "
        f"{_touched(view)}. Free space there, or use method Push."
    )


def _no_agent(view: View) -> str:
    return (
        f"VM {view.run.domain}: spec.quiesce is Required, but no guest agent answers. Start qemu-guest-agent in the "
        "guest, or use IfAvailable."
    )


def _stopped(view: View) -> str:
    return f"VM {view.run.domain} stopped before the backup had begun"


def _interrupted(view: View) -> str:
    return f"VM {view.run.domain}: interrupted while the guest was being frozen"


UNUSABLE = because(Reason.LOCATION_UNUSABLE, location_problem)
NO_SPACE = because(Reason.NO_SPACE, _no_space)
NO_OVERLAY_SPACE = because(Reason.NO_SPACE, _no_overlay_space)
NO_AGENT = because(Reason.QUIESCE_FAILED, _no_agent)
STOPPED = because(Reason.SOURCE_LOST, _stopped, heals=True)
INTERRUPTED = because(Reason.INTERRUPTED, _interrupted, heals=True)


def _made(_: View) -> dict[str, object]:
    return {"made": True}


def _mounted(_: View) -> dict[str, object]:
    return {"mounted": True}


def _intended(view: View) -> dict[str, object]:
    return {"freeze": Freeze.INTENDED, "frozen_at": view.now}


def _frozen(_: View) -> dict[str, object]:
    return {"freeze": Freeze.FROZEN, "quiesced": Quiesced(done=True, reason=Reason.FROZEN)}


def _not_wanted(_: View) -> dict[str, object]:
    return {"quiesced": Quiesced(done=False, reason=Reason.NOT_REQUESTED, message="spec.quiesce is Never")}


def _agent_missing(_: View) -> dict[str, object]:
    message = "no guest agent is connected; the copy is as after a power cut"
    return {"quiesced": Quiesced(done=False, reason=Reason.GUEST_AGENT_MISSING, message=message)}


def _refused(view: View) -> dict[str, object]:
    return {"quiesced": Quiesced(done=False, reason=Reason.FREEZE_FAILED, message=view.error)}


def beginning(then: Phase) -> Table:
    """Return the rows that lead to `then`, the phase that fixes the point in time."""
    return {
        # Nothing of the VM is touched yet. A crash leaves at most an empty `.partial` directory.
        Phase.PREPARING: (
            Rule("giving up", giving_up, Go(Phase.DISCARDING)),
            Rule("the agent ends", agent_stops, Wait(1.0, ending_words)),
            Rule("location unusable", location_unusable, Fail(UNUSABLE, Phase.DISCARDING, Outcome.REFUSED)),
            Rule("VM gone", vm_gone, Fail(STOPPED, Phase.DISCARDING)),
            Rule("location away", location_away, Wait(LOCATION_REST_SECONDS, location_problem)),
            Rule("somebody else's job", foreign_work, Wait(1.0, foreign_words)),
            Rule("too little space", too_little_space, Fail(NO_SPACE, Phase.DISCARDING, Outcome.REFUSED)),
            Rule("directory refused", failed(MakeDirectory), Fail(last_error(Reason.STORE_ERROR), Phase.DISCARDING)),
            Rule("directory not seen", in_vain(MakeDirectory, no_directory), Wait(1.0, not_made_words)),
            Rule("no directory", no_directory, Act(lambda _: MakeDirectory(), _made)),
            Rule("mount refused", failed(MountDirectory), Fail(last_error(Reason.STORE_ERROR), Phase.DISCARDING)),
            Rule("mount not seen", in_vain(MountDirectory, not_mounted), Wait(1.0, not_mounted_words)),
            Rule("not mounted into the pod", not_mounted, Act(lambda _: MountDirectory(), _mounted)),
            Rule(
                "too little space for overlays",
                overlay_space_low,
                Fail(NO_OVERLAY_SPACE, Phase.DISCARDING, Outcome.REFUSED),
            ),
            Rule("drain refused", failed(DrainStatistics), Fail(last_error(Reason.HYPERVISOR_ERROR), Phase.DISCARDING)),
            Rule("statistics stay", in_vain(DrainStatistics, old_statistics), Wait(1.0, not_drained_words)),
            Rule("old statistics", old_statistics, Act(lambda _: DrainStatistics())),
            Rule("prepared", always, Go(Phase.FREEZING)),
        ),
        # The guest may be frozen: a crash is followed by a thaw, then by a new attempt.
        Phase.FREEZING: (
            Rule("giving up", giving_up, Go(Phase.DISCARDING)),
            Rule("the agent ends", agent_stops_unfrozen, Wait(1.0, ending_words)),
            Rule("not wanted", unwanted, Go(then, _not_wanted)),
            Rule("required, no agent", required_without_agent, Fail(NO_AGENT, Phase.DISCARDING)),
            Rule("no agent", no_agent, Go(then, _agent_missing)),
            Rule("frozen", done(FreezeGuest), Go(then, _frozen)),
            Rule("required, refused", required_but_refused, Fail(last_error(Reason.QUIESCE_FAILED), Phase.DISCARDING)),
            Rule("refused", failed(FreezeGuest), Go(then, _refused)),
            Rule("interrupted", lambda view: view.run.maybe_frozen, Fail(INTERRUPTED, Phase.DISCARDING)),
            Rule("to be frozen", always, Act(lambda _: FreezeGuest(FREEZE_LIMIT_SECONDS), _intended)),
        ),
    }
