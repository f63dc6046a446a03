"""Where one disk is on the way from our overlay back to its base, by observation alone.

    NEVER_LEFT   on its base; our overlay was never in use
    ON_OVERLAY   the guest writes to our overlay, no job runs
    MERGING      the active commit copies the overlay into the base
    READY        base and overlay are equal: the pivot may be done
    OFF          the VM is off and its definition names our overlay
    HOME         the guest writes to the base again; the overlay is merged and of no use
    LOST         the guest runs on something else, or on a base that misses what our overlay holds, or its next
                 start would be on our overlay: nothing may be merged or removed, a human must decide

A base that was written without the overlay must never receive the overlay: that would destroy both.
"""

from enum import Enum, auto

from vmbackup.api.journal import RunDisk
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.core.rules import View

MIRROR_LAG_SECONDS = 1.0  # what QEMU may write later to the one image than to the other
EMPTY_OVERLAY_BYTES = 256 * 1024  # a qcow2 file of libvirt's that no guest has written to holds 192 KiB of metadata


class Position(Enum):
    NEVER_LEFT = auto()
    ON_OVERLAY = auto()
    MERGING = auto()
    READY = auto()
    OFF = auto()
    HOME = auto()
    LOST = auto()


AT_BASE = frozenset({Position.NEVER_LEFT, Position.HOME})


def position(view: View, disk: RunDisk) -> Position:
    """Return where the disk is. Only libvirt's pivot, or somebody's redefine, rewrites the persistent definition."""
    if not view.run.began:
        return Position.NEVER_LEFT
    seen = view.domain.disk(disk.target)
    if seen is None or seen.source == disk.source:
        return _off_overlay(view, seen, disk)
    if seen.source == disk.overlay:
        return Position.LOST if base_went_on(view, disk) else _on_overlay(view.domain, seen, disk)
    return Position.NEVER_LEFT if _never_taken(view, seen, disk) else Position.LOST


def pivot_died(domain: DomainFacts, disk: RunDisk) -> bool:
    """Return whether the QEMU in which a pivot was intended is no more."""
    return bool(disk.pivot_instance) and not (domain.alive and domain.instance == disk.pivot_instance)


def base_went_on(view: View, disk: RunDisk) -> bool:
    """Return whether a guest has written to the base without our overlay, though the VM is on the overlay again.

    libvirt 9.0 can lose a VM in mid pivot: its QEMU goes on with the base, the definition still names the overlay, and
    whoever then kills QEMU and starts the VM starts it on old data. While a commit is ready the guest's writes go to
    both images, so both were last written to at the same time when QEMU died before the pivot. Times of one file system
    are compared only with each other. A block device has none: there the definition is all there is to see.
    """
    intended_at, written_at = disk.base_written_at, view.store.written_at
    base, overlay = written_at.get(disk.source), written_at.get(disk.overlay)
    if intended_at is None or base is None or overlay is None or not pivot_died(view.domain, disk):
        return False
    return base - intended_at > MIRROR_LAG_SECONDS and abs(base - overlay) > MIRROR_LAG_SECONDS


def _never_taken(view: View, seen: DiskFacts, disk: RunDisk) -> bool:
    """Return whether somebody moved the disk before our snapshot, which then was not taken: our overlay is nowhere."""
    chain = (seen.inactive_source, *(image.path for image in seen.backing))
    nowhere = view.store.overlay_bytes.get(disk.target) is None and disk.overlay not in chain
    return nowhere and not disk.pivot_instance and view.run.phase in (Phase.SNAPSHOTTING, Phase.CLEANING)


def defined_on_overlay(seen: DiskFacts, disk: RunDisk) -> bool:
    """Return whether the next start of a guest that is off the overlay would bring it back, with old data."""
    return bool(disk.overlay) and seen.inactive_source == disk.overlay


def _on_overlay(domain: DomainFacts, seen: DiskFacts, disk: RunDisk) -> Position:
    if not domain.alive:
        return Position.OFF
    if seen.job is not None and seen.job.kind == "active-commit":
        return Position.READY if seen.job.ready else Position.MERGING
    above_base = not seen.backing or seen.backing[0].path == disk.source
    return Position.ON_OVERLAY if above_base else Position.LOST


def _off_overlay(view: View, seen: DiskFacts | None, disk: RunDisk) -> Position:
    at_base = Position.HOME if disk.pivot_instance else Position.NEVER_LEFT
    if seen is not None and defined_on_overlay(seen, disk):
        return Position.LOST
    if view.run.phase is Phase.CLEANING and view.run.outcome is not Outcome.STRANDED:
        return at_base  # every disk was seen on its base before: whatever became of the VM since, it needs no overlay
    if seen is None:
        return Position.LOST
    overlay_bytes = view.store.overlay_bytes.get(disk.target)
    if overlay_bytes is None:
        return at_base
    return at_base if _is_complete(view, seen, disk, overlay_bytes) else Position.LOST


def _is_complete(view: View, seen: DiskFacts, disk: RunDisk, overlay_bytes: int) -> bool:
    """Return whether the base that the guest runs on holds all that our overlay does."""
    domain, run = view.domain, view.run
    if domain.alive and domain.instance and domain.instance in (run.instance, disk.pivot_instance):
        return True  # the same QEMU process: it was never on the overlay, or it has pivoted
    if disk.pivot_instance and disk.followed and domain.persistent and seen.inactive_source == disk.source:
        return True  # another process, but the definition left the overlay: the pivot was completed before the crash
    return run.phase is Phase.SNAPSHOTTING and overlay_bytes <= EMPTY_OVERLAY_BYTES


def positions(view: View) -> dict[str, Position]:
    return {disk.target: position(view, disk) for disk in view.run.disks}


def first(view: View, wanted: Position) -> RunDisk | None:
    """Return the first disk at that position."""
    return next((disk for disk in view.run.disks if position(view, disk) is wanted), None)


def every(view: View, wanted: frozenset[Position]) -> bool:
    return all(where in wanted for where in positions(view).values())
