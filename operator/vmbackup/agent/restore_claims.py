"""Taking up a VMRestore that is bound to this node: everything is read afresh and derived again.

The status is no input but for the moment at which an agent has begun.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vmbackup.api.conditions import Reason
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.restore import RestoreKind, VMRestore, kind_of
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Executor, VMBackup
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import LOCATION, NAMESPACE, VMBACKUP, VMRESTORE, Resources
from vmbackup.core import ownership
from vmbackup.core.facts import DomainFacts
from vmbackup.core.imported import set_uid
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.restore_plan import RestoreRequest, SetFacts, choose_set, plan_restore
from vmbackup.core.turns import allowed
from vmbackup.errors import NotYet, Refused
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.store.finding import find_by_uid, find_sets


@dataclass(frozen=True)
class Place:
    """What the command line says of this node."""

    executor: Executor
    state: Path
    images: Path
    connect: str
    default_namespace: str


class RestoreClaims:
    """Turns VMRestores that are bound to this node into runs."""

    def __init__(self, resources: Resources, hypervisor: Libvirtd, place: Place, *, now: Callable[[], float]) -> None:
        self._resources, self._hypervisor, self._place, self._now = resources, hypervisor, place, now

    def claim(self, restore: VMRestore) -> float:
        """Write into the status that this agent has begun, if the restore is still ours to begin; return since when.

        Raises: NotYet: the API server is away. NotFound: it is gone, over, or bound to another node.
        """
        body = self._resources.get(VMRESTORE, restore.metadata.name, restore.metadata.namespace)
        seen = VMRestore.parse(body)
        if seen.metadata.uid != restore.metadata.uid or seen.finished:
            raise NotFound(f"{restore.key}: it is gone or over")
        if seen.status.node != self._place.executor.node:
            raise NotFound(f"{restore.key}: it is bound to node {seen.status.node}")
        begun = seen.status.start_time
        started_at = datetime.fromisoformat(begun).timestamp() if begun else self._now()
        told = {"start_time": rfc3339(started_at), "executor": self._place.executor}
        self._resources.patch_status(VMRESTORE, body, seen.status.model_copy(update=told))
        return started_at

    def plan(self, restore: VMRestore, started_at: float) -> RestoreRun:
        """Derive everything again: location, set, VM. Raises: Refused: nothing was touched. NotYet."""
        location, found = self._find(restore)
        kind = kind_of(restore.spec)
        claims = [] if kind is RestoreKind.DISKS else [ownership.Claim(*vm) for vm in self._hypervisor.vms()]
        domain = self._own(restore, found, claims) if kind is RestoreKind.IN_PLACE else None
        request = RestoreRequest(
            uid=restore.metadata.uid,
            namespace=restore.metadata.namespace,
            name=restore.metadata.name,
            spec=restore.spec,
            location=location.metadata.name,
            location_path=location.spec.directory.path,
            images_path=str(self._place.images),
            started_at=started_at,
            node=self._place.executor.node,
            default_namespace=self._place.default_namespace,
        )
        return plan_restore(request, found, claims, domain)

    def _find(self, restore: VMRestore) -> tuple[VMBackupLocation, SetFacts]:
        source, namespace = restore.spec.source, restore.metadata.namespace
        try:
            if source.set is not None:
                location = self._location(source.set.location, namespace)
                sets = find_sets(location.spec.directory.path, namespace, source.set.vm)
                return location, choose_set(sets, source.set.at_or_before, source.set.vm)
            backup = self._backup(source.backup or "", namespace)
            location = self._location(backup.spec.location, namespace)
            found = find_by_uid(location.spec.directory.path, namespace, set_uid(backup))
        except OSError as error:
            raise NotYet(Reason.LOCATION_NOT_READY, f"the location cannot be read: {error.strerror}") from error
        if found is None:
            raise Refused(
                Reason.SET_NOT_FOUND,
                f"location {backup.spec.location} has no set of VMBackup {backup.metadata.name} on node "
                f"{self._place.executor.node} (outcome of the backup: {backup.status.outcome}).",
            )
        return location, found

    def _backup(self, name: str, namespace: str) -> VMBackup:
        try:
            return VMBackup.parse(self._resources.get(VMBACKUP, name, namespace))
        except NotFound:
            raise Refused(Reason.SET_NOT_FOUND, f"there is no VMBackup {name} any more; use source.set.") from None

    def _location(self, name: str, namespace: str) -> VMBackupLocation:
        """Raises: Refused: there is none, or it is not for this namespace. NotYet."""
        try:
            location = VMBackupLocation.model_validate(self._resources.get(LOCATION, name))
        except NotFound:
            raise Refused(Reason.LOCATION_NOT_FOUND, f"there is no VMBackupLocation {name} any more.") from None
        selector = location.spec.allowed_namespaces
        labels: dict[str, str] = {}
        if selector.match_labels and not allowed(selector, namespace, labels):
            labels = self._resources.get(NAMESPACE, namespace)["metadata"].get("labels") or {}
        if not allowed(selector, namespace, labels):
            words = f"VMBackupLocation {name} does not allow namespace {namespace}: ask its administrator."
            raise Refused(Reason.LOCATION_NOT_ALLOWED, words)
        return location

    def _own(self, restore: VMRestore, found: SetFacts, claims: list[ownership.Claim]) -> DomainFacts:
        """Return the VM of this namespace whose disks are to be replaced. Raises: Refused, NotYet."""
        wanted = (restore.metadata.namespace, found.manifest.vm)
        for vm in ownership.hosted(claims, self._place.default_namespace).vms:
            if (vm.namespace, vm.name) == wanted:
                return self._hypervisor.find(vm.domain)
        raise Refused(Reason.VM_NOT_FOUND, f"node {self._place.executor.node} has no VM {wanted[1]} of this namespace.")
