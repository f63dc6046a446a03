"""How every backup begins: make room, freeze. Nothing of the VM is changed before Freezing."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Freeze, Quiesced
from vmbackup.api.vmbackup import Outcome, Phase, Quiesce
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
    last_error,
    maybe_frozen,
    vm_gone,
)  # fmt: skip
from vmbackup.core.steps import DrainStatistics, FreezeGuest, MakeDirectory
from vmbackup.units import human_bytes

FREEZE_LIMIT_SECONDS = 8.0


def location_in_trouble(view: View) -> bool:
    return bool(view.store.problem)


def foreign_work(view: View) -> str:
    """Return the name of somebody else's work on the VM, empty when there is none."""
    if view.domain.job is not None:
        return f"a {view.domain.job.operation} job"
    busy = next((disk for disk in view.domain.disks if disk.job is not None), None)
    return f"a {busy.job.kind} block job on disk {busy.target}" if busy and busy.job else ""


def needed_bytes(view: View) -> int:
    return sum(disk.allocated_bytes for disk in view.run.disks)


def too_little_space(view: View) -> bool:
    return view.store.free_bytes - view.store.reserve_bytes < needed_bytes(view)


def _no_space(view: View) -> str:
    return (
        f"VM {view.run.domain}: the disks hold {human_bytes(needed_bytes(view))}, but {view.run.location_path} has "
        f"{human_bytes(view.store.free_bytes)} free and must keep {human_bytes(view.store.reserve_bytes)}; nothing was "
        "touched. Free space in the location, or exclude disks."
    )


def quiesce_unwanted(view: View) -> bool:
    return view.run.spec.quiesce is Quiesce.NEVER


def no_guest_agent(view: View) -> bool:
    return not view.domain.guest_agent or view.domain.state != "running"


def required(view: View) -> bool:
    return view.run.spec.quiesce is Quiesce.REQUIRED


def _unquiesced(reason: Reason, message: str) -> dict[str, object]:
    return {"quiesced": Quiesced(done=False, reason=reason, message=message)}


def beginning(then: Phase) -> Table:
    """Return the rows that lead to `then`, the phase that fixes the point in time."""
    return {
        # Nothing of the VM is touched yet. A crash leaves at most an empty `.partial` directory.
        Phase.PREPARING: (
            Rule("giving up", giving_up, Go(Phase.DISCARDING)),
            Rule(
                "location in trouble",
                location_in_trouble,
                Fail(
                    because(Reason.LOCATION_UNUSABLE, lambda view: view.store.problem),
                    Phase.DISCARDING,
                    Outcome.REFUSED,
                ),
            ),
            Rule(
                "VM gone",
                vm_gone,
                Fail(
                    because(
                        Reason.SOURCE_LOST,
                        lambda view: f"VM {view.run.domain} stopped before the backup began",
                        heals=True,
                    ),
                    Phase.DISCARDING,
                ),
            ),
            Rule("somebody else's job", lambda view: bool(foreign_work(view)), Wait(1.0)),
            Rule(
                "too little space",
                too_little_space,
                Fail(because(Reason.NO_SPACE, _no_space), Phase.DISCARDING, Outcome.REFUSED),
            ),
            Rule("directory refused", failed(MakeDirectory), Fail(last_error(Reason.STORE_ERROR), Phase.DISCARDING)),
            Rule("no directory", lambda view: not view.store.partial, Act(lambda _: MakeDirectory())),
            Rule(
                "cannot read old statistics",
                failed(DrainStatistics),
                Fail(last_error(Reason.HYPERVISOR_ERROR), Phase.DISCARDING),
            ),
            Rule("old statistics", lambda view: view.domain.completed is not None, Act(lambda _: DrainStatistics())),
            Rule("prepared", always, Go(Phase.FREEZING)),
        ),
        # The guest may be frozen: a crash is followed by a thaw, then by a new attempt.
        Phase.FREEZING: (
            Rule("giving up", giving_up, Go(Phase.DISCARDING)),
            Rule(
                "not wanted",
                quiesce_unwanted,
                Go(then, lambda _: _unquiesced(Reason.NOT_REQUESTED, "spec.quiesce is Never")),
            ),
            Rule(
                "required, but no agent",
                lambda view: required(view) and no_guest_agent(view) and not maybe_frozen(view),
                Fail(
                    because(
                        Reason.QUIESCE_FAILED,
                        lambda view: (
                            f"VM {view.run.domain}: spec.quiesce is Required, but no guest agent answers. "
                            "Start qemu-guest-agent in the guest, or use IfAvailable."
                        ),
                    ),
                    Phase.DISCARDING,
                ),
            ),
            Rule(
                "no guest agent",
                lambda view: no_guest_agent(view) and not maybe_frozen(view),
                Go(then, lambda _: _unquiesced(Reason.GUEST_AGENT_MISSING, "no guest agent is connected")),
            ),
            Rule(
                "frozen",
                done(FreezeGuest),
                Go(then, lambda _: {"freeze": Freeze.FROZEN, "quiesced": Quiesced(done=True, reason=Reason.FROZEN)}),
            ),
            Rule(
                "required, but refused",
                lambda view: required(view) and failed(FreezeGuest)(view),
                Fail(last_error(Reason.QUIESCE_FAILED), Phase.DISCARDING),
            ),
            Rule(
                "freeze refused",
                failed(FreezeGuest),
                Go(then, lambda view: _unquiesced(Reason.FREEZE_FAILED, view.error)),
            ),
            Rule(
                "interrupted",
                maybe_frozen,
                Fail(
                    because(
                        Reason.INTERRUPTED,
                        lambda view: f"VM {view.run.domain}: interrupted while the guest was being frozen",
                        heals=True,
                    ),
                    Phase.DISCARDING,
                ),
            ),
            Rule(
                "to be frozen",
                always,
                Act(
                    lambda _: FreezeGuest(FREEZE_LIMIT_SECONDS),
                    lambda view: {"freeze": Freeze.INTENDED, "frozen_at": view.now},
                ),
            ),
        ),
    }
