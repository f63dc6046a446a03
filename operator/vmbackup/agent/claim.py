"""Taking up a VMBackup that is bound to this node: everything is read afresh and derived again.

The status is no input but for two things the agent itself has written there: when it began, and the attempt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.vmbackup import Executor, VMBackup
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import LOCATION, NAMESPACE, VMBACKUP, Resources
from vmbackup.core import ownership
from vmbackup.core.facts import DomainFacts
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.plan import Request
from vmbackup.core.turns import allowed
from vmbackup.errors import NotYet, Refused
from vmbackup.hypervisor.libvirtd import Libvirtd


@dataclass(frozen=True)
class Claim:
    """That this agent works on a backup. Seconds since the epoch; `attempt` is the number of the next attempt."""

    started_at: float
    attempt: int


class Claims:
    """Turns VMBackups that are bound to this node into requests."""

    def __init__(  # noqa: PLR0913 - called once
        self,
        resources: Resources,
        hypervisor: Libvirtd,
        executor: Executor,
        *,
        overlay_directory: Path,
        default_namespace: str,
        stall_seconds: int,
        now: Callable[[], float],
    ) -> None:
        self._resources, self._hypervisor, self._executor = resources, hypervisor, executor
        self._overlay_directory, self._default_namespace = overlay_directory, default_namespace
        self._stall_seconds, self._now = stall_seconds, now

    def claim(self, backup: VMBackup) -> Claim:
        """Write into the status that this agent has begun, if the backup is still ours to begin.

        Raises:
            NotYet: the API server is away, or somebody else has just written.
            Refused: the backup is gone, over, or bound to another node.
        """
        body = self._resources.get(VMBACKUP, backup.metadata.name, backup.metadata.namespace)
        seen = VMBackup.parse(body)
        if seen.metadata.uid != backup.metadata.uid or seen.finished:
            raise NotFound(f"{backup.key}: it is gone or over")
        if seen.status.node != self._executor.node:
            raise NotFound(f"{backup.key}: it is bound to node {seen.status.node}")
        status = seen.status
        started_at = _seconds(status.start_time) or self._now()
        self._resources.patch_status(
            VMBACKUP,
            body,
            status.model_copy(update={"start_time": rfc3339(started_at), "executor": self._executor}),
        )
        # With an attempt in the status but none in the journal, the journal was lost: never use a name again.
        return Claim(started_at, status.attempt + 1)

    def running_vms(self) -> list[str]:
        """Return the domain names of all running VMs, claimed or not. Raises: NotYet: the hypervisor is away."""
        return [vm.domain for vm in self._hypervisor.vms() if vm.running]

    def domain(self, backup: VMBackup) -> DomainFacts:
        """Return the VM that the backup names, if it is the backup's namespace's.

        Raises: NotYet: the hypervisor is away. Refused: there is no such VM for this namespace.
        """
        source = backup.spec.source
        claims = [ownership.Claim(*vm) for vm in self._hypervisor.vms()]
        for vm in ownership.hosted(claims, self._default_namespace).vms:
            if (vm.namespace, vm.name) == (backup.metadata.namespace, source.name):
                return self._hypervisor.find(vm.domain)
        raise Refused(
            Reason.VM_NOT_FOUND,
            f"node {self._executor.node} has no VM {source.name} of namespace {backup.metadata.namespace} any more.",
        )

    def request(self, backup: VMBackup, domain: str, claim: Claim) -> Request:
        """Return the request, with the paths of the location as its administrator wrote them.

        Raises: NotYet: the API server is away. Refused: the location is gone, or not for this namespace.
        """
        location = self._location(backup)
        self._check_allowed(location, backup.metadata.namespace)
        return Request(
            uid=backup.metadata.uid,
            namespace=backup.metadata.namespace,
            name=backup.metadata.name,
            spec=backup.spec,
            domain=domain,
            location_path=location.spec.directory.path,
            overlay_directory=str(self._overlay_directory),
            started_at=claim.started_at,
            attempt=claim.attempt,
            min_free=location.spec.min_free,
            stall_seconds=self._stall_seconds,
        )

    def _check_allowed(self, location: VMBackupLocation, namespace: str) -> None:
        """The controller has asked the same; but the binding stands in the status, and that is no input.

        Raises: NotYet: the API server is away. Refused: the location does not allow the namespace.
        """
        selector = location.spec.allowed_namespaces
        labels: dict[str, str] = {}
        if selector.match_labels and not allowed(selector, namespace, labels):
            labels = self._resources.get(NAMESPACE, namespace)["metadata"].get("labels") or {}
        if not allowed(selector, namespace, labels):
            raise Refused(
                Reason.LOCATION_NOT_ALLOWED,
                f"VMBackupLocation {location.metadata.name} does not allow namespace {namespace}: ask its "
                "administrator.",
            )

    def _location(self, backup: VMBackup) -> VMBackupLocation:
        try:
            return VMBackupLocation.model_validate(self._resources.get(LOCATION, backup.spec.location))
        except NotFound:
            raise Refused(
                Reason.LOCATION_NOT_FOUND, f"there is no VMBackupLocation {backup.spec.location} any more."
            ) from None
        except ValidationError as error:
            message = f"VMBackupLocation {backup.spec.location} cannot be read: {error.errors()[0]['msg']}"
            raise NotYet(Reason.LOCATION_NOT_READY, message) from None


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
