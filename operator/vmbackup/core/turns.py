"""Whose turn it is: the oldest first, one backup per VM, so many per node and per location.

A younger backup may pass an older one that waits for something else; it never takes what the older one waits for.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.host import VMHost
from vmbackup.api.location import NamespaceSelector, VMBackupLocation
from vmbackup.api.vmbackup import VMBackup
from vmbackup.core.kstatus import epoch
from vmbackup.core.resolve import Found, Inventory, NotFound, VMIs


@dataclass(frozen=True)
class Limits:
    """What is bounded.

    per_node: backups that may run on a node at once. grace_seconds: how long a missing VM or location may come.
    abandon_seconds: how long a deleted backup waits for the silent agent of its node. removal_seconds: how long it
    waits for the removal of its set, once an agent has recorded that.
    """

    per_node: int = 2
    grace_seconds: float = 60.0
    abandon_seconds: float = 900.0
    removal_seconds: float = 300.0


@dataclass(frozen=True)
class Scene:
    """All that a plan looks at. `namespaces`: labels by name. `missing_since`: by UID, when it was first missed."""

    backups: Sequence[VMBackup]
    hosts: Mapping[str, VMHost]
    locations: Mapping[str, VMBackupLocation]
    namespaces: Mapping[str, Mapping[str, str]]
    live_nodes: Collection[str]
    missing_since: Mapping[str, float] = field(default_factory=dict)
    vmis: VMIs = field(default_factory=dict)


@dataclass(frozen=True)
class Bind:
    """Its turn: the agent of the node takes over."""

    backup: VMBackup
    node: str


@dataclass(frozen=True)
class Wait:
    """Not now; looked at again when something changes."""

    backup: VMBackup
    reason: Reason
    message: str


@dataclass(frozen=True)
class Refuse:
    """It ends here; nothing was touched."""

    backup: VMBackup
    reason: Reason
    message: str


@dataclass(frozen=True)
class Lost:
    """It runs on a node whose agent is silent. It stays bound: the VM may still be on its way home there."""

    backup: VMBackup
    message: str


@dataclass(frozen=True)
class Abandon:
    """Deleted, and its node's agent has been silent ever since: let it go, and say what may be left there."""

    backup: VMBackup
    message: str


Turn = Bind | Wait | Refuse | Lost | Abandon
MISSING = frozenset({Reason.WAITING_FOR_VM, Reason.LOCATION_NOT_FOUND, Reason.LOCATION_NOT_ALLOWED})


def plan_turns(scene: Scene, limits: Limits, now: float) -> list[Turn]:
    """Return what is to be done with every unfinished backup; those that run on live nodes need nothing."""
    under_way = [backup for backup in scene.backups if not backup.finished and not _is_import(backup)]
    inventory = Inventory(scene.hosts, scene.live_nodes, scene.vmis)
    board = _Board(limits, inventory, scene)
    bound = [backup for backup in under_way if backup.status.node]
    for backup in bound:
        board.occupy(backup, backup.status.node or "")
    waiting = sorted((backup for backup in under_way if not backup.status.node), key=_age)
    lost = [_lost(backup, limits, now) for backup in bound if backup.status.node not in scene.live_nodes]
    return [*lost, *(board.turn(backup, now) for backup in waiting)]


def _is_import(backup: VMBackup) -> bool:
    """Return whether the resource stands for a set that is there already: nothing is to be backed up."""
    return names.ANNOTATION_IMPORTED in backup.metadata.annotations


def _age(backup: VMBackup) -> tuple[str, str]:
    return backup.metadata.creation_timestamp, backup.key


def _lost(backup: VMBackup, limits: Limits, now: float) -> Lost | Abandon:
    node = backup.status.node
    deleted = backup.metadata.deletion_timestamp
    if deleted and now - epoch(deleted) >= limits.abandon_seconds:
        return Abandon(
            backup,
            f"Deleted {limits.abandon_seconds:.0f} s ago, and the agent of node {node} is silent: the resource is "
            "let go. If the node comes back, its agent finishes from its journal; if not, VM "
            f"{backup.spec.source.name} may have an overlay of ours on its storage, and the location an unfinished "
            "directory.",
        )
    return Lost(
        backup,
        f"The agent of node {node} is silent. The backup stays bound to it, because VM {backup.spec.source.name} may "
        f"still be on its way home there: bring the node or its agent back, it will go on by itself.",
    )


class _Board:
    """What is taken so far, and how many older backups wait for what."""

    def __init__(self, limits: Limits, inventory: Inventory, scene: Scene) -> None:
        self._limits = limits
        self._inventory = inventory
        self._scene = scene
        self._on_node: Counter[str] = Counter()
        self._at_location: Counter[str] = Counter()
        self._waiting: Counter[tuple[str, ...]] = Counter()
        self._vms: dict[tuple[str, str], VMBackup] = {}

    def occupy(self, backup: VMBackup, node: str, uuid: str | None = None) -> None:
        self._on_node[node] += 1
        self._at_location[backup.spec.location] += 1
        uuid = uuid or self._inventory.uuid(backup, node) or f"{backup.metadata.namespace}/{backup.spec.source.name}"
        # Whatever the node: a VM that was started elsewhere may still have our overlay from a node that died.
        self._vms[backup.metadata.namespace, uuid] = backup

    def turn(self, backup: VMBackup, now: float) -> Turn:
        if backup.metadata.deletion_timestamp:
            return Refuse(backup, Reason.DELETED, "Deleted before its turn came; nothing was touched.")
        if backup.spec.cancel:
            return Refuse(backup, Reason.CANCELLED, "Cancelled before its turn came; nothing was touched.")
        found = self._location_obstacle(backup) or self._vm(backup)
        if isinstance(found, NotFound):
            return self._not_yet(backup, found, now)
        queued = self._queued(backup, found)
        if queued:
            return Wait(backup, Reason.QUEUED, queued)
        self.occupy(backup, found.node, found.uuid)
        return Bind(backup, found.node)

    def _location_obstacle(self, backup: VMBackup) -> NotFound | None:
        name, namespace = backup.spec.location, backup.metadata.namespace
        location = self._scene.locations.get(name)
        if location is None or location.metadata.deletion_timestamp:
            return NotFound(Reason.LOCATION_NOT_FOUND, f"There is no VMBackupLocation {name}.")
        labels = self._scene.namespaces.get(namespace)
        selector = location.spec.allowed_namespaces
        if allowed(selector, namespace, labels or {}):
            return None
        message = f"VMBackupLocation {name} does not allow namespace {namespace}: ask its administrator."
        labels_may_come = labels is None and bool(selector.match_labels)
        return NotFound(Reason.LOCATION_NOT_ALLOWED, message, final=not labels_may_come)

    def _vm(self, backup: VMBackup) -> Found | NotFound:
        """Return the VM, ready to be backed up."""
        found = self._inventory.find(backup)
        if isinstance(found, NotFound):
            return found
        name = backup.spec.source.name
        if found.node not in self._scene.live_nodes:
            return NotFound(Reason.NODE_LOST, f"VM {name} is on node {found.node}, whose agent is silent: start it.")
        if not found.running:
            return NotFound(Reason.VM_NOT_RUNNING, f"VM {name} is not running on node {found.node}: start it.")
        return found

    def _not_yet(self, backup: VMBackup, obstacle: NotFound, now: float) -> Turn:
        if obstacle.final:
            return Refuse(backup, obstacle.reason, obstacle.message)
        if obstacle.reason in MISSING:
            since = self._scene.missing_since.get(backup.metadata.uid, now)
            if now - since < self._limits.grace_seconds:
                return Wait(backup, obstacle.reason, f"{obstacle.message} It is waited for a short while.")
            gone = Reason.VM_NOT_FOUND if obstacle.reason is Reason.WAITING_FOR_VM else obstacle.reason
            return Refuse(backup, gone, f"{obstacle.message} Correct the name and make a new VMBackup.")
        waited_seconds = now - epoch(backup.metadata.creation_timestamp)
        if waited_seconds < backup.spec.deadline_seconds:
            return Wait(backup, obstacle.reason, obstacle.message)
        limit = f"deadlineSeconds ({backup.spec.deadline_seconds}) passed since it was made"
        return Refuse(backup, Reason.DEADLINE_EXCEEDED, f"{obstacle.message} {limit}; nothing was touched.")

    def _queued(self, backup: VMBackup, found: Found) -> str:
        """Return what the backup waits for in words, empty when it may start; counts it for the younger ones."""
        location = backup.spec.location
        most_there = self._scene.locations[location].spec.max_concurrent
        other = self._vms.get((backup.metadata.namespace, found.uuid))
        if other is not None:
            older = self._line_up("vm", backup.metadata.namespace, found.uuid)
            also = f" and {_older(older)}" if older else ""
            return f"VM {backup.spec.source.name} is being backed up by {other.metadata.name}; waiting for it{also}."
        if self._on_node[found.node] >= self._limits.per_node:
            older = self._line_up("node", found.node) + self._on_node[found.node]
            return f"Waiting for {_older(older)} on node {found.node}, {self._limits.per_node} at a time."
        if self._at_location[location] >= most_there:
            older = self._line_up("location", location) + self._at_location[location]
            return f"Waiting for {_older(older)} to location {location}, {most_there} at a time."
        return ""

    def _line_up(self, *line: str) -> int:
        """Return how many stand in this line already, and join it."""
        ahead = self._waiting[line]
        self._waiting[line] += 1
        return ahead


def allowed(selector: NamespaceSelector, namespace: str, labels: Mapping[str, str]) -> bool:
    """Return whether a location admits a namespace: by its name, or because it carries all the labels."""
    if "*" in selector.names or namespace in selector.names:
        return True
    wanted = selector.match_labels
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


def _older(count: int) -> str:
    """Return a count in words; rough when it is large, so that not every end rewrites the whole queue."""
    for many in (1000, 100, 10):
        if count > many:
            return f"more than {many} older backups"
    return f"{count} older backup{'' if count == 1 else 's'}"
