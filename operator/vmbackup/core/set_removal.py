"""What becomes of a set when its VMBackup is deleted, and who removes it. A deletion never waits for ever.

`deletionPolicy: Delete` puts a finalizer on the VMBackup. Once deleted, an agent that sees the location takes the
removal into its own records, and removes the set as soon as it can; from then on the resource is no longer needed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.spec import DeletionPolicy
from vmbackup.api.vmbackup import Outcome, VMBackup
from vmbackup.core.kstatus import epoch


@dataclass(frozen=True)
class Doomed:
    """A VMBackup as far as its set is concerned.

    wanted: the set is to go with the resource. held: the finalizer is there. at_work: the backup is not over, and its
    VM may not be home. told: what an agent said last, as reason and message; over: nothing is left to do for the agent.
    """

    wanted: bool
    held: bool
    at_work: bool
    deleted_at: float | None
    node: str | None
    location: str
    told: tuple[str, str] | None = None
    over: bool = False


@dataclass(frozen=True)
class Hold:
    """Put the finalizer on."""


@dataclass(frozen=True)
class LetGo:
    """Take the finalizer away. `left`: what stays behind and why, empty when all is well."""

    left: str = ""


@dataclass(frozen=True)
class HandOver:
    """Give the removal to the agent of another node that sees the same files."""

    node: str


Move = Hold | LetGo | HandOver | None


@dataclass(frozen=True)
class Surroundings:
    """What can be seen of nodes and locations."""

    hosts: Mapping[str, VMHost]
    live_nodes: Collection[str]
    locations: Mapping[str, VMBackupLocation]


@dataclass(frozen=True)
class Patience:
    """recorded_seconds: how long a deletion waits for a removal that an agent has recorded but cannot do now.

    silent_seconds: how long it waits for any agent to record it.
    """

    recorded_seconds: float = 300.0
    silent_seconds: float = 900.0


def doomed(backup: VMBackup) -> Doomed:
    """Return what becomes of the set of a VMBackup. One that is under way is held too: its set may still come."""
    status, metadata = backup.status, backup.metadata
    published = status.outcome is Outcome.SUCCEEDED and backup.finished
    said = find(status.conditions, ConditionType.SET_REMOVED)
    coming = not backup.finished and not metadata.deletion_timestamp
    return Doomed(
        wanted=backup.spec.deletion_policy is DeletionPolicy.DELETE and (published or coming),
        held=names.FINALIZER_SET in metadata.finalizers,
        at_work=not backup.finished and names.FINALIZER in metadata.finalizers,
        deleted_at=epoch(metadata.deletion_timestamp) if metadata.deletion_timestamp else None,
        node=status.node,
        location=backup.spec.location,
        told=(said.reason, said.message) if said else None,
        over=said is not None and said.reason in (Reason.REMOVED, Reason.SET_KEPT),
    )


def removal_move(one: Doomed, around: Surroundings, patience: Patience, now: float) -> Move:
    """Return what the controller has to do for the set of one VMBackup."""
    if one.deleted_at is None:
        unheld = Hold() if one.wanted else LetGo()
        return None if one.held == one.wanted else unheld
    if not one.held or one.at_work:
        return None
    if not one.wanted:
        return LetGo()
    if one.told is not None:
        return _told(one.told, one.over, patience, now - one.deleted_at)
    if now - one.deleted_at >= patience.silent_seconds:
        return LetGo(
            f"no agent took up the removal of its set in location {one.location} (node {one.node or 'unknown'}): the "
            "set stays there; `vmbackup-operator catalog` lists it"
        )
    other = None if one.node in around.live_nodes else _another(one, around)
    return HandOver(other) if other else None


def _told(told: tuple[str, str], over: bool, patience: Patience, waited_seconds: float) -> Move:
    """An agent has recorded the removal: from now on the resource is needed for nothing but to tell its end."""
    reason, message = told
    if over:
        return LetGo("" if reason == Reason.REMOVED else message)
    if waited_seconds >= patience.recorded_seconds:
        return LetGo(f"the set is not removed yet: {message}")
    return None


def _another(one: Doomed, around: Surroundings) -> str | None:
    """Return a live node that can write to the same files."""
    location = around.locations.get(one.location)
    if location is None or not location.spec.directory.shared:
        return None
    able = (
        node
        for node in sorted(around.live_nodes)
        if node in around.hosts
        and any(space.location == one.location and space.ready for space in around.hosts[node].status.locations)
    )
    return next(able, None)
