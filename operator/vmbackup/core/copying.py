"""Snapshot method, copying: the bases stand still while the guest writes to our overlays, within limits."""

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import RunDisk
from vmbackup.core.position import Position, positions
from vmbackup.core.rules import Test, View, because, giving_up, location_problem, stalled, works_running
from vmbackup.core.steps import StartCopy
from vmbackup.units import GIB, human_bytes, human_seconds, parse_bytes

OVERLAY_RESERVE_BYTES = GIB // 2


def left_overlay(view: View) -> bool:
    """Return whether a disk that must be on its overlay is not, or will not be for long: its base may be written.

    An overlay that was unlinked lives as long as its QEMU; one that is gone while the VM is off was merged elsewhere.
    """
    unlinked = any(disk.target not in view.store.overlay_bytes for disk in view.run.disks)
    return unlinked or any(where not in (Position.ON_OVERLAY, Position.OFF) for where in positions(view).values())


def copied(view: View) -> dict[str, object]:
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


def copy_error(view: View) -> str:
    disk = next(disk for disk in view.run.disks if copy_state(view, disk) == "failed")
    return f"VM {view.run.domain}, disk {disk.target}: {view.store.works[disk.target].error}"


def overlay_too_old(view: View) -> bool:
    """Return whether the VM is on overlays for too long; a clock that was set back by a restart counts as that."""
    return not 0 <= view.now - (view.run.overlay_at or view.now) <= view.run.spec.overlay.max_seconds


def overlay_too_large(view: View) -> bool:
    return sum(view.store.overlay_bytes.values()) > parse_bytes(view.run.spec.overlay.max_bytes)


def overlay_space_low(view: View) -> bool:
    free = view.store.overlay_free_bytes
    return free is not None and free < OVERLAY_RESERVE_BYTES


def limit_words(view: View) -> str:
    size = human_bytes(sum(view.store.overlay_bytes.values()))
    age = human_seconds(view.now - (view.run.overlay_at or view.now))
    free = human_bytes(view.store.overlay_free_bytes or 0)
    return (
        f"VM {view.run.domain}: the overlays reached {size} in {age} with {free} left beside them; the copy was given "
        "up and the VM taken home. Raise spec.overlay, or back up when the guest writes less."
    )


def copy_stalled(view: View) -> bool:
    return works_running(view) and stalled(view)


def agent_stops(view: View) -> bool:
    """Return whether the agent is about to end: nobody would watch the overlays grow."""
    return view.facts.wishes.stopping


def copy_to_stop(view: View) -> bool:
    return giving_up(view) and works_running(view)


def limit_reached(view: View) -> bool:
    return overlay_too_old(view) or overlay_too_large(view) or overlay_space_low(view)


def all_copied(view: View) -> bool:
    return all(disk.copied for disk in view.run.disks)


def base_waits(view: View) -> bool:
    return bool(to_copy(view))


def copy(view: View) -> StartCopy:
    return StartCopy(to_copy(view))


def left_words(view: View) -> str:
    return f"VM {view.run.domain}: a disk left our overlay while its base was being copied; the copy is not trusted"


def stalled_words(view: View) -> str:
    still = human_seconds(view.facts.still_seconds)
    return f"VM {view.run.domain}: the copy has not moved for {still} (is {view.run.location_path} still answering?)"


def stopping_words(view: View) -> str:
    return f"VM {view.run.domain}: the agent was asked to end, so the copy was given up and the VM taken home"


def nearly_full_words(view: View) -> str:
    free = human_bytes(view.store.free_bytes)
    return f"VM {view.run.domain}: only {free} are left in {view.run.location_path}; the copy was stopped"


LEFT = because(Reason.SOURCE_LOST, left_words, heals=True)
LIMIT = because(Reason.OVERLAY_LIMIT, limit_words)
UNUSABLE = because(Reason.LOCATION_UNUSABLE, location_problem, heals=True)
NEARLY_FULL = because(Reason.NO_SPACE, nearly_full_words)
STALLED = because(Reason.STALLED, stalled_words, heals=True)
STOPPING = because(Reason.INTERRUPTED, stopping_words, heals=True)
COPY_FAILED = because(Reason.COPY_FAILED, copy_error, heals=True)
