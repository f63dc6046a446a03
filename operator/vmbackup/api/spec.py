"""The spec of a VMBackup: what a user may ask for."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from vmbackup.api.model import Document
from vmbackup.api.schema import DISTINCT, explained, frozen_except, rule
from vmbackup.units import QUANTITY_PATTERN, parse_bytes

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
DISK_PATTERN = r"^[a-z]+[a-z0-9]*$"
NODE_OF_DOMAIN = "Leave source.node out: there is one VirtualMachineInstance of a name in a namespace, and it moves."
EITHER_LIST = "Give either include or exclude: with include, all other disks are left out anyway."

DiskName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=16,
        pattern=DISK_PATTERN,
        json_schema_extra=explained("Name a disk by its target, lower case letters and digits such as vda."),
    ),
]
Quantity = Annotated[
    str,
    Field(
        max_length=18,
        pattern=QUANTITY_PATTERN,
        json_schema_extra=explained(
            "Write a size as a whole number above zero with k, M, G, T, P, Ki, Mi, Gi, Ti, Pi or nothing: 100Mi."
        ),
    ),
]


class SourceKind(StrEnum):
    DOMAIN = "Domain"
    VMI = "VirtualMachineInstance"


class Method(StrEnum):
    AUTO = "Auto"
    PUSH = "Push"
    SNAPSHOT = "Snapshot"


class Quiesce(StrEnum):
    NEVER = "Never"
    IF_AVAILABLE = "IfAvailable"
    REQUIRED = "Required"


class Verify(StrEnum):
    NONE = "None"
    CHECK = "Check"
    CHECKSUM = "Checksum"


class DeletionPolicy(StrEnum):
    RETAIN = "Retain"
    DELETE = "Delete"


class Source(Document):
    """The VM to back up. It belongs to the namespace of the VMBackup."""

    model_config = ConfigDict(json_schema_extra=rule("self.kind == 'Domain' || !has(self.node)", NODE_OF_DOMAIN))

    kind: SourceKind = Field(
        default=SourceKind.DOMAIN,
        description=(
            "Domain: a VM of a libvirt host. VirtualMachineInstance: a running VM of KubeVirt (kubevirt.io), in its "
            "launcher pod."
        ),
    )
    name: str = Field(
        min_length=1,
        max_length=180,
        pattern=NAME_PATTERN,
        description="The VM's name in this namespace, as `kubectl get vmhosts -o yaml` lists it.",
        json_schema_extra=explained(
            "Write the VM's name with letters, digits, '.', '_' and '-'; it starts and ends with a letter or a digit."
        ),
    )
    node: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Node of the VM, to tell domains of equal name apart. Not for a VirtualMachineInstance.",
    )

    @model_validator(mode="after")
    def _one_of_its_name(self) -> Self:
        if self.kind is SourceKind.VMI and self.node is not None:
            raise ValueError(NODE_OF_DOMAIN)
        return self


class DiskSelection(Document):
    """Which disks are backed up. With neither list it is every writable disk that is not empty."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.?include.orValue([]).size() == 0 || self.?exclude.orValue([]).size() == 0",
            EITHER_LIST,
        )
    )

    include: tuple[DiskName, ...] = Field(
        default=(),
        max_length=64,
        description="Back up these disks only, by target name such as vda.",
        json_schema_extra=DISTINCT,
    )
    exclude: tuple[DiskName, ...] = Field(
        default=(),
        max_length=64,
        description="Back up all disks but these, by target name such as vdb.",
        json_schema_extra=DISTINCT,
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.include and self.exclude:
            raise ValueError(EITHER_LIST)
        return self


class OverlayLimits(Document):
    """Snapshot method only: when the copy is given up and the VM is taken home."""

    max_bytes: Quantity = Field(
        default="20Gi", description="Size that the overlays of the VM may reach together before the copy is given up."
    )
    max_seconds: int = Field(
        default=1800,
        ge=10,
        le=86400,
        description="Seconds that the VM may spend on overlays before the copy is given up.",
    )


class BackupSettings(Document):
    """Where to and how: what a VMBackup and the template of a schedule have in common."""

    location: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="Name of the VMBackupLocation that receives the set.",
        json_schema_extra=explained(
            "Name a VMBackupLocation: lower case letters, digits, '-' and '.' (see `kubectl get vmbackuplocations`)."
        ),
    )
    method: Method = Field(
        default=Method.AUTO,
        description=(
            "How to copy: with Push, QEMU writes the copy while the VM goes on with its own disks; with Snapshot, the "
            "VM writes to overlays meanwhile, which are then merged into its disks. "
            "Auto takes Push where the libvirt daemon can (7.2.0 or newer), else Snapshot, and the status says why."
        ),
    )
    disks: DiskSelection = Field(default_factory=DiskSelection)
    quiesce: Quiesce = Field(
        default=Quiesce.IF_AVAILABLE,
        description=(
            "Whether the guest agent freezes the guest's file systems for the moment that the copy shows. "
            "IfAvailable does so where an agent answers, Required fails when none does, Never does not ask."
        ),
    )
    verify: Verify = Field(
        default=Verify.CHECK,
        description=(
            "What is done before the set is published. Check looks at the images' consistency and sizes, Checksum "
            "also writes a SHA-256 of every file, None does nothing."
        ),
    )
    max_bytes_per_second: Quantity | None = Field(
        default=None,
        description="Upper bound of the copy's speed for all disks together, such as 100Mi. Without it there is none.",
    )
    deadline_seconds: int = Field(
        default=3600,
        ge=1,
        le=604800,
        description="Seconds that the backup may take from its start on the node. Then the VM is taken home.",
    )
    overlay: OverlayLimits = Field(default_factory=OverlayLimits)
    deletion_policy: DeletionPolicy = Field(
        default=DeletionPolicy.RETAIN,
        description=(
            "What becomes of the set when this resource is deleted, to be changed at any time: with Retain it stays in "
            "the location, with Delete it is removed as soon as the location can be reached."
        ),
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=315360000,
        description=(
            "Seconds after its end when this resource is removed; without it, it stays. What becomes of the set says "
            "deletionPolicy."
        ),
    )

    @property
    def limit_bytes_per_second(self) -> int:
        """Return the speed limit in bytes per second, 0 for none."""
        return parse_bytes(self.max_bytes_per_second) if self.max_bytes_per_second else 0


class VMBackupSpec(BackupSettings):
    """What to back up, where to and how. Immutable but for `cancel` and `deletionPolicy`."""

    model_config = ConfigDict(
        json_schema_extra=frozen_except(
            "cancel",
            "deletionPolicy",
            message="{} cannot be changed once the VMBackup exists: make a new VMBackup.",
        )
    )

    source: Source
    cancel: bool = Field(
        default=False,
        description="Set to true to stop the backup and take the VM home. It cannot be taken back.",
        json_schema_extra=rule("self || !oldSelf", "cancel cannot be taken back: make a new VMBackup."),
    )
