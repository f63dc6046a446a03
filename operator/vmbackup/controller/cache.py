"""What the watches said last, by kind and UID. Filled by many threads, read by one."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, ValidationError

from vmbackup.api import names
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.model import Report
from vmbackup.api.restore import VMRestore
from vmbackup.api.schedule import VMBackupSchedule
from vmbackup.api.vmbackup import ObjectMeta, VMBackup
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import LOCATION, NAMESPACE, SCHEDULE, VMBACKUP, VMHOST, VMI, VMRESTORE, Kind
from vmbackup.core.children import Child, child_of
from vmbackup.core.kstatus import epoch
from vmbackup.core.samples import Ending, ending
from vmbackup.core.set_removal import Doomed, doomed

log = logging.getLogger(__name__)


class LabelledMeta(ObjectMeta):
    labels: dict[str, str] = Field(default_factory=dict)


class Namespace(Report):
    """The part of a namespace that we read."""

    metadata: LabelledMeta


@dataclass(frozen=True, slots=True)
class Finished:
    """All that is kept of a finished backup: there are many, and only their end of life is still ours.

    `held`: our finalizer is on it. `expires_at`: seconds since the epoch, None for never. `end`: for the metrics.
    `child`: what its schedule and retention want to know. `fate`: what becomes of its set when it is deleted.
    `changed`: its spec is newer than what its status speaks of.
    """

    metadata: ObjectMeta
    held: bool
    expires_at: float | None
    end: Ending
    child: Child
    fate: Doomed
    changed: bool = False


Model = (
    VMBackup | Finished | VMRestore | VMBackupSchedule | VMBackupLocation | VMHost | Namespace | VirtualMachineInstance
)
KEPT_METADATA = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"}
    | {"finalizers", "labels", "annotations"}
)
PARSERS: Mapping[Kind, Callable[[Body], Model]] = {
    VMBACKUP: VMBackup.parse,
    VMRESTORE: VMRestore.parse,
    SCHEDULE: VMBackupSchedule.parse,
    LOCATION: VMBackupLocation.model_validate,
    VMHOST: VMHost.model_validate,
    NAMESPACE: Namespace.model_validate,
    VMI: VirtualMachineInstance.model_validate,
}
OPTIONAL = (VMI,)  # served only where KubeVirt is
WATCHED = tuple(kind for kind in PARSERS if kind not in OPTIONAL)


@dataclass(frozen=True)
class Entry:
    """`body` is what writes start from; `model` is what decisions start from."""

    body: Body
    model: Any


class Cache:
    """`wake` is called when something changed that a decision may depend on."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in PARSERS}
        self._unreadable: dict[Kind, dict[str, str]] = {kind: {} for kind in PARSERS}

    def put(self, kind: Kind, body: Body) -> None:
        """Take in an object, unless a newer one is known. One that cannot be read is logged once and left out."""
        uid = body["metadata"]["uid"]
        slim = _slim(body)
        try:
            model = PARSERS[kind](slim)
        except ValidationError as error:
            self._leave_out(kind, slim, error)
            return
        if isinstance(model, VMBackup) and model.finished:
            slim, model = {"metadata": slim["metadata"]}, _finished(model)
        elif isinstance(model, VirtualMachineInstance):
            slim = {"metadata": slim["metadata"]}  # never written, and large
        with self._lock:
            before = self._entries[kind].get(uid)
            if before is not None and _older(slim, before.body):
                return
            self._entries[kind][uid] = Entry(slim, model)
        if before is None or _essence(before.model) != _essence(model):
            self._wake()

    def _leave_out(self, kind: Kind, body: Body, why: ValidationError) -> None:
        metadata = body["metadata"]
        with self._lock:
            known = metadata["uid"] in self._unreadable[kind]
            self._unreadable[kind][metadata["uid"]] = metadata["resourceVersion"]
        if not known:
            about = {"backup": f"{metadata['namespace']}/{metadata['name']}"} if kind is VMBACKUP else {}
            log.error("%s %s cannot be read and is left alone: %s", kind.name, metadata["name"], why, extra=about)

    def drop(self, kind: Kind, uid: str) -> None:
        with self._lock:
            gone = self._entries[kind].pop(uid, None)
            self._unreadable[kind].pop(uid, None)
        if gone is not None:
            self._wake()

    def replace(self, kind: Kind, bodies: Iterable[Body]) -> None:
        """Take in all objects of a kind; those known before and not among them are gone."""
        known = self.versions(kind)
        listed = set()
        for body in bodies:
            listed.add(body["metadata"]["uid"])
            self.put(kind, body)
        for uid in set(known) - listed:
            self.drop(kind, uid)

    def entry(self, kind: Kind, uid: str) -> Entry | None:
        with self._lock:
            return self._entries[kind].get(uid)

    def versions(self, kind: Kind) -> dict[str, str]:
        """Return the resource version of every object by UID, of those that cannot be read too."""
        with self._lock:
            read = {uid: entry.body["metadata"]["resourceVersion"] for uid, entry in self._entries[kind].items()}
            return {**self._unreadable[kind], **read}

    def backups(self) -> list[VMBackup]:
        """Return those that are not finished."""
        return [model for model in self._models(VMBACKUP) if not isinstance(model, Finished)]

    def finished(self) -> list[Finished]:
        return [model for model in self._models(VMBACKUP) if isinstance(model, Finished)]

    def schedules(self) -> list[VMBackupSchedule]:
        return self._models(SCHEDULE)

    def restores(self) -> list[VMRestore]:
        return self._models(VMRESTORE)

    def locations(self) -> dict[str, VMBackupLocation]:
        return {model.metadata.name: model for model in self._models(LOCATION)}

    def hosts(self) -> dict[str, VMHost]:
        return {model.metadata.name: model for model in self._models(VMHOST)}

    def namespaces(self) -> dict[str, dict[str, str]]:
        return {model.metadata.name: model.metadata.labels for model in self._models(NAMESPACE)}

    def vmis(self) -> dict[tuple[str, str], VirtualMachineInstance]:
        return {(model.metadata.namespace, model.metadata.name): model for model in self._models(VMI)}

    def _models(self, kind: Kind) -> list[Any]:
        with self._lock:
            return [entry.model for entry in self._entries[kind].values()]


def _slim(body: Body) -> Body:
    """Return the object without what is of no use here."""
    metadata = {key: value for key, value in body["metadata"].items() if key in KEPT_METADATA}
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if names.is_ours(key)}
    return {**body, "metadata": metadata | {"annotations": annotations}}


def _finished(backup: VMBackup) -> Finished:
    metadata = backup.metadata
    ttl, ended = backup.spec.ttl_seconds_after_finished, backup.status.completion_time
    expires_at = epoch(ended) + ttl if ttl is not None and ended is not None else None
    return Finished(
        metadata=metadata,
        held=names.FINALIZER in metadata.finalizers,
        expires_at=None if metadata.deletion_timestamp else expires_at,
        end=ending(backup),
        child=child_of(backup),
        fate=doomed(backup),
        changed=metadata.generation > backup.status.observed_generation,
    )


def _older(body: Body, than: Body) -> bool:
    """Compare by resource version: a number that only grows, for one object. A watch may be behind our own writes."""
    mine, other = body["metadata"]["resourceVersion"], than["metadata"]["resourceVersion"]
    return mine.isdigit() and other.isdigit() and int(mine) < int(other)


def _essence(model: Model) -> object:
    """Return what decisions depend on: progress is none of it."""
    metadata = model.metadata
    fate = (metadata.deletion_timestamp, metadata.finalizers, metadata.generation)
    if isinstance(model, Finished):
        return fate, model.held, model.expires_at, model.changed, model.child, model.fate
    if isinstance(model, VMBackup | VMRestore):
        return fate, model.spec.cancel, model.status.node, model.status.phase, model.status.outcome
    if isinstance(model, VMBackupLocation | VMBackupSchedule):
        return fate
    return (fate, model.status) if isinstance(model, VMHost | VirtualMachineInstance) else (fate, model.metadata)
