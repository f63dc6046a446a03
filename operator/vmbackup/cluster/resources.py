"""Where our resources live in the API, and the few ways in which they are written.

Every write names the version (or at least the UID) of the object that it was decided on: two writers lose nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vmbackup.api import names
from vmbackup.api.model import Report
from vmbackup.cluster.client import Body, Client
from vmbackup.cluster.errors import Conflict, NotFound


@dataclass(frozen=True)
class Kind:
    """A kind of resource: its name, and the path of its collections."""

    name: str
    plural: str
    base: str = f"/apis/{names.API_VERSION}"
    namespaced: bool = False

    @property
    def group_version(self) -> tuple[str, str]:
        """Return group and version; the group of the core API is empty."""
        *_, group, version = self.base.split("/")
        return ("" if group == "api" else group, version)

    def collection(self, namespace: str = "") -> str:
        """Return the path of all objects, or of those of one namespace."""
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{self.base}{within}/{self.plural}"

    def path(self, name: str, namespace: str = "") -> str:
        return f"{self.collection(namespace if self.namespaced else '')}/{quote(name, safe='')}"


VMBACKUP = Kind("VMBackup", "vmbackups", namespaced=True)
VMRESTORE = Kind("VMRestore", "vmrestores", namespaced=True)
SCHEDULE = Kind("VMBackupSchedule", "vmbackupschedules", namespaced=True)
LOCATION = Kind("VMBackupLocation", "vmbackuplocations")
VMHOST = Kind("VMHost", "vmhosts")
NAMESPACE = Kind("Namespace", "namespaces", "/api/v1")
VMI = Kind("VirtualMachineInstance", "virtualmachineinstances", "/apis/kubevirt.io/v1", namespaced=True)
LEASE = Kind("Lease", "leases", "/apis/coordination.k8s.io/v1", namespaced=True)
EVENT = Kind("Event", "events", "/apis/events.k8s.io/v1", namespaced=True)
OURS = (VMBACKUP, VMRESTORE, SCHEDULE, LOCATION, VMHOST)


class Resources:
    """Reads and writes whole resources as raw JSON."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server knows the kind. Raises: APIServerAway, Denied."""
        try:
            self.client.call("GET", kind.collection(), query={"limit": "1"})
        except NotFound:
            return False
        return True

    def get(self, kind: Kind, name: str, namespace: str = "") -> Body:
        """Raises: NotFound, APIServerAway, Denied."""
        return self.client.get(kind.path(name, namespace))

    def list(self, kind: Kind, namespace: str = "", *, metadata_only: bool = False) -> Iterator[Body]:
        """Yield all objects of a kind. Raises: APIServerAway, Denied; NotFound: the kind is not served."""
        return self.client.list(kind.collection(namespace), metadata_only=metadata_only)

    def patch_status(self, kind: Kind, body: Body, new: Report) -> Body:
        """Make the status of the object in `body` equal to `new`; nothing is sent when it is already.

        Fields that this version does not know are left alone. Returns the object as it is then.
        Raises: Conflict: the object changed since `body` was read. NotFound, APIServerAway, Denied.
        """
        known = {field.alias or name for name, field in type(new).model_fields.items()}
        old = {key: value for key, value in (body.get("status") or {}).items() if key in known}
        changes = changes_between(old, dump(new))
        if not changes:
            return body
        return self._patch(kind, body, {"status": changes}, "/status")

    def add_finalizer(self, kind: Kind, body: Body, finalizer: str = names.FINALIZER) -> Body:
        """Keep the object from vanishing. Raises: as `patch_status`."""
        finalizers = _finalizers(body)
        if finalizer in finalizers:
            return body
        return self._patch(kind, body, {"metadata": {"finalizers": [*finalizers, finalizer]}})

    def remove_finalizer(self, kind: Kind, body: Body, finalizer: str = names.FINALIZER) -> Body:
        """Let the object go. Raises: as `patch_status`."""
        finalizers = _finalizers(body)
        if finalizer not in finalizers:
            return body
        rest = [other for other in finalizers if other != finalizer]
        return self._patch(kind, body, {"metadata": {"finalizers": rest}})

    def merge(self, kind: Kind, body: Body, changes: Body, subresource: str = "") -> Body:
        """Merge changes into the object, as it was read. Raises: as `patch_status`."""
        return self._patch(kind, body, dict(changes), subresource)

    def create(self, kind: Kind, body: Body) -> Body:
        """Make a namespaced object. Raises: Conflict: one of its name exists. APIServerAway, NotFound, Denied."""
        return self.client.create(kind.collection(body["metadata"]["namespace"]), body)

    def delete(self, kind: Kind, body: Body, *, unchanged: bool = False) -> Body | None:
        """Delete the object that `body` is, not another of its name; if `unchanged`, only as it was read.

        Returns the object when a finalizer keeps it for now, None when it is gone.
        Raises: as `patch_status`.
        """
        metadata = body["metadata"]
        version = metadata["resourceVersion"] if unchanged else None
        path = kind.path(metadata["name"], metadata.get("namespace", ""))
        left = self.client.delete(path, metadata["uid"], version)
        return left if left.get("kind") == kind.name else None

    def put_status(self, kind: Kind, name: str, new: Report) -> Body:
        """Write the status of a cluster-scoped object that only we write; make the object when it is missing.

        Raises: APIServerAway, Denied.
        """
        body = self._get_or_create(kind, name)
        while True:
            try:
                return self.patch_status(kind, body, new)
            except Conflict:
                body = self.get(kind, name)

    def _get_or_create(self, kind: Kind, name: str) -> Body:
        try:
            return self.get(kind, name)
        except NotFound:
            made = {"apiVersion": names.API_VERSION, "kind": kind.name, "metadata": {"name": name}}
            return self.client.create(kind.collection(), made)

    def _patch(self, kind: Kind, body: Body, changes: Body, subresource: str = "") -> Body:
        metadata = body["metadata"]
        swap = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        changes["metadata"] = {**swap, **changes.get("metadata", {})}
        path = kind.path(metadata["name"], metadata.get("namespace", ""))
        return self.client.patch(f"{path}{subresource}", changes)


def dump(report: Report) -> Body:
    """Return a status as JSON; what is unknown is left out."""
    return report.model_dump(mode="json", by_alias=True, exclude_none=True)


def changes_between(old: Body, new: Body) -> Body:
    """Return the JSON merge patch (RFC 7396) that makes `old` equal to `new`; empty when they are."""
    changes: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = changes_between(before, value)
            if inner:
                changes[key] = inner
        elif before != value:
            changes[key] = value
    return changes


def _finalizers(body: Body) -> list[str]:
    found: Iterable[str] = body["metadata"].get("finalizers") or ()
    return list(found)
