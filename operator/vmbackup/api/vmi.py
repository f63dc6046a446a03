"""The part of KubeVirt's VirtualMachineInstance (kubevirt.io/v1) that we read. Never written, and never an authority.

Its status can be written by whoever may update it (its CRD has no status subresource), so it only tells where to look:
a VM belongs to the namespace that its domain's name says, in the pod where the domain is.
"""

from typing import Literal

from pydantic import Field

from vmbackup.api.model import Report
from vmbackup.api.vmbackup import ObjectMeta

Timestamp = str | None

HOTPLUG_VOLUME = (
    "volumes/kubernetes.io~empty-dir/hotplug-disks"  # of a launcher pod, in the pod's directory of its node
)


class Operation(Report):
    """What KubeVirt does with a VM: the present one of its kind, or the last."""

    end_timestamp: Timestamp = None
    completed: bool = False
    failed: bool = False

    @property
    def over(self) -> bool:
        return self.completed or self.failed or self.end_timestamp is not None


class MigrationState(Operation):
    target_node: str = ""


class NativeBackup(Operation):
    """KubeVirt's own backup of the VM."""

    backup_name: str = ""


class ChangedBlockTracking(Report):
    backup_status: NativeBackup | None = None


class VMIStatus(Report):
    """`active_pods`: node by pod UID, of pods that have ended too."""

    phase: str = ""
    node_name: str = ""
    active_pods: dict[str, str] | None = None
    migration_state: MigrationState | None = None
    changed_block_tracking: ChangedBlockTracking | None = None

    @property
    def running(self) -> bool:
        return self.phase == "Running" and bool(self.node_name)

    def pods_on(self, node: str) -> tuple[str, ...]:
        """Return the UIDs of the pods that the VM has or had on a node."""
        return tuple(sorted(uid for uid, at in (self.active_pods or {}).items() if at == node))


class VirtualMachineInstance(Report):
    """A running VM of KubeVirt."""

    api_version: str = ""
    kind: Literal["VirtualMachineInstance"] = "VirtualMachineInstance"
    metadata: ObjectMeta
    status: VMIStatus = Field(default_factory=VMIStatus)
