"""Which node does a restore, and when. As for backups: bound once, never bound again, refused in words."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vmbackup.api.conditions import Reason
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.restore import RestorePhase as Phase
from vmbackup.api.restore import VMRestore, VMRestoreStatus
from vmbackup.core.kstatus import Stamp, epoch
from vmbackup.core.restore_report import refused, waiting
from vmbackup.core.turns import Limits, allowed


@dataclass(frozen=True)
class KnownBackup:
    """What is known of a VMBackup that a restore names."""

    vm: str
    location: str
    node: str | None


@dataclass(frozen=True)
class RestoreScene:
    """All that a plan looks at. `backups`: by namespace and name. `namespaces`: labels by name."""

    restores: Sequence[VMRestore]
    backups: Mapping[tuple[str, str], KnownBackup]
    hosts: Mapping[str, VMHost]
    locations: Mapping[str, VMBackupLocation]
    namespaces: Mapping[str, Mapping[str, str]]
    live_nodes: Collection[str]


@dataclass(frozen=True)
class Bind:
    restore: VMRestore
    node: str


@dataclass(frozen=True)
class Wait:
    restore: VMRestore
    reason: Reason
    message: str


@dataclass(frozen=True)
class Refuse:
    restore: VMRestore
    reason: Reason
    message: str


@dataclass(frozen=True)
class Abandon:
    """Deleted, and its node's agent has been silent ever since."""

    restore: VMRestore
    message: str


Turn = Bind | Wait | Refuse | Abandon


@dataclass(frozen=True)
class _No:
    """Why there is no node now. `comes`: it may be there in a moment. `final`: it will not."""

    reason: Reason
    message: str
    comes: bool = False
    final: bool = False


def plan_restores(scene: RestoreScene, limits: Limits, now: float) -> list[Turn]:
    """Return what is to be done with every unfinished restore; those that run on live nodes need nothing."""
    under_way = [restore for restore in scene.restores if not restore.finished]
    bound = [restore for restore in under_way if restore.status.node]
    on_node = Counter(restore.status.node or "" for restore in bound)
    turns: list[Turn] = [
        _silent(restore, limits, now) for restore in bound if restore.status.node not in scene.live_nodes
    ]
    waiting_ = sorted(
        (restore for restore in under_way if not restore.status.node),
        key=lambda restore: (restore.metadata.creation_timestamp, restore.key),
    )
    for restore in waiting_:
        turn = _turn(restore, scene, limits, now)
        if isinstance(turn, Bind):
            if on_node[turn.node] >= limits.per_node:
                words = f"Waiting for {on_node[turn.node]} older restores on node {turn.node}."
                turn = Wait(restore, Reason.QUEUED, words)
            else:
                on_node[turn.node] += 1
        turns.append(turn)
    return turns


def status_of_restore_turn(turn: Bind | Wait | Refuse, now: float) -> VMRestoreStatus:
    """Return the status after the turn; equal to the present one when there is nothing new to say."""
    restore = turn.restore
    stamp = Stamp(now, restore.metadata.generation)
    if isinstance(turn, Bind):
        assigned = waiting(
            restore.status, Reason.RUNNING, f"Assigned to node {turn.node}; its agent takes over.", stamp
        )
        return assigned.model_copy(update={"node": turn.node, "phase": Phase.ASSIGNED})
    if isinstance(turn, Refuse):
        return refused(restore.status, turn.reason, turn.message, stamp)
    return waiting(restore.status, turn.reason, turn.message, stamp)


def _silent(restore: VMRestore, limits: Limits, now: float) -> Wait | Abandon:
    node, deleted = restore.status.node, restore.metadata.deletion_timestamp
    if deleted and now - epoch(deleted) >= limits.abandon_seconds:
        return Abandon(
            restore,
            f"The agent of node {node} is silent: the resource is let go. If the node comes back, its agent finishes "
            "from its journal; if not, images of this restore may be left there, and the set stays protected.",
        )
    return Wait(
        restore,
        Reason.NODE_LOST,
        f"The agent of node {node} is silent. The restore stays bound to it and goes on when it is back.",
    )


def _turn(restore: VMRestore, scene: RestoreScene, limits: Limits, now: float) -> Turn:
    if restore.metadata.deletion_timestamp:
        return Refuse(restore, Reason.DELETED, "Deleted before its turn came; nothing was touched.")
    if restore.spec.cancel:
        return Refuse(restore, Reason.CANCELLED, "Cancelled before its turn came; nothing was touched.")
    found = _node(restore, scene)
    if isinstance(found, str):
        return Bind(restore, found)
    waited = now - epoch(restore.metadata.creation_timestamp)
    if found.final or (found.comes and waited >= limits.grace_seconds):
        return Refuse(restore, found.reason, f"{found.message} Nothing was touched; make a new VMRestore.")
    if waited >= restore.spec.deadline_seconds:
        return Refuse(restore, Reason.DEADLINE_EXCEEDED, f"{found.message} The deadline passed; nothing was touched.")
    return Wait(restore, found.reason, found.message)


def _node(restore: VMRestore, scene: RestoreScene) -> str | _No:
    source, namespace = restore.spec.source, restore.metadata.namespace
    wrote: str | None = None
    if source.set is not None:
        location_name, vm = source.set.location, source.set.vm
    else:
        backup = scene.backups.get((namespace, source.backup or ""))
        if backup is None:
            words = f"There is no VMBackup {source.backup} in this namespace. Name the set instead: source.set."
            return _No(Reason.SET_NOT_FOUND, words, comes=True)
        location_name, vm, wrote = backup.location, backup.vm, backup.node
    location = scene.locations.get(location_name)
    if location is None or location.metadata.deletion_timestamp:
        return _No(Reason.LOCATION_NOT_FOUND, f"There is no VMBackupLocation {location_name}.", comes=True)
    labels = scene.namespaces.get(namespace)
    if not allowed(location.spec.allowed_namespaces, namespace, labels or {}):
        message = f"VMBackupLocation {location_name} does not allow namespace {namespace}: ask its administrator."
        return _No(Reason.LOCATION_NOT_ALLOWED, message, comes=labels is None, final=labels is not None)
    return _choose(restore, scene, location, (vm, wrote))


def _choose(
    restore: VMRestore, scene: RestoreScene, location: VMBackupLocation, source: tuple[str, str | None]
) -> str | _No:
    """Return the node: the one that is named, the VM's for inPlace, the one that wrote, or one that sees the set."""
    vm, wrote = source
    wanted = restore.spec.node
    if wanted is None and restore.spec.target.in_place is not None:
        homes = _homes(scene, restore.metadata.namespace, vm)
        if len(homes) != 1:
            where = f"on the nodes {', '.join(homes)}" if homes else "on no node"
            return _No(Reason.VM_NOT_FOUND, f"VM {vm} is seen {where}: say which one with spec.node.", comes=True)
        wanted = homes[0]
    if wanted is None and wrote and not location.spec.directory.shared:
        wanted = wrote
    if wanted is not None:
        if wanted not in scene.live_nodes:
            return _No(Reason.NODE_LOST, f"The agent of node {wanted} is silent: start it.")
        return wanted
    seeing = sorted(node for node in scene.live_nodes if _sees(scene.hosts.get(node), location.metadata.name))
    if not seeing:
        return _No(Reason.NODE_LOST, f"No live node sees the location {location.metadata.name}.")
    homes = [node for node in _homes(scene, restore.metadata.namespace, vm) if node in seeing]
    if location.spec.directory.shared or len(seeing) == 1:
        return wrote if wrote in seeing and wrote else (homes or seeing)[0]
    nodes = ", ".join(seeing)
    words = (
        f"The location {location.metadata.name} is not shared, and the nodes {nodes} have one each: say on which the "
        "set lies, with spec.node."
    )
    return _No(Reason.NO_NODE, words, final=True)


def _homes(scene: RestoreScene, namespace: str, vm: str) -> list[str]:
    return [
        node
        for node in sorted(scene.hosts)
        if any((one.namespace, one.name) == (namespace, vm) for one in scene.hosts[node].status.vms)
    ]


def _sees(host: VMHost | None, location: str) -> bool:
    # "Ready" is about writing: a set in a location that is nearly full can be restored all the same.
    return host is not None and any(space.location == location for space in host.status.locations)
