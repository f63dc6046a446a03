"""VMBackup: the request of one full backup of one VM, and the report of what came of it."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vmbackup.api.conditions import Conditions
from vmbackup.api.model import Document, Report
from vmbackup.api.schema import DISTINCT, TIMESTAMP, explained, frozen_except, keyed_by, rule
from vmbackup.units import QUANTITY_PATTERN, human_bytes, human_seconds, parse_bytes

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
DISK_PATTERN = r"^[a-z]+[a-z0-9]*$"
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
Timestamp = Annotated[str, Field(max_length=32, json_schema_extra=TIMESTAMP)]


class SourceKind(StrEnum):
    DOMAIN = "Domain"


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


class Phase(StrEnum):
    """Where a backup is on the way home. The two methods share all but the middle."""

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    PREPARING = "Preparing"
    FREEZING = "Freezing"
    STARTING = "Starting"
    SNAPSHOTTING = "Snapshotting"
    COPYING = "Copying"
    COMMITTING = "Committing"
    PIVOTING = "Pivoting"
    CLEANING = "Cleaning"
    VERIFYING = "Verifying"
    PUBLISHING = "Publishing"
    DISCARDING = "Discarding"
    DONE = "Done"


class Outcome(StrEnum):
    """What will be reported at the end; decided once, the way home does not depend on it."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    REFUSED = "Refused"
    CANCELLED = "Cancelled"
    STRANDED = "Stranded"


class Source(Document):
    """The VM to back up. It belongs to the namespace of the VMBackup."""

    kind: SourceKind = Field(default=SourceKind.DOMAIN, description="Domain: a VM of a libvirt host.")
    name: str = Field(
        min_length=1,
        max_length=180,
        pattern=NAME_PATTERN,
        description="The VM's name.",
        json_schema_extra=explained(
            "Write the VM's name with letters, digits, '.', '_' and '-'; it starts and ends with a letter or a digit."
        ),
    )
    node: str | None = Field(
        default=None, min_length=1, max_length=253, description="Node of the VM, to tell VMs of equal name apart."
    )


class DiskSelection(Document):
    """Disks by target name (vda). With neither list: every writable disk that is not empty."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.?include.orValue([]).size() == 0 || self.?exclude.orValue([]).size() == 0",
            EITHER_LIST,
        )
    )

    include: tuple[DiskName, ...] = Field(
        default=(), max_length=64, description="Back up these disks only.", json_schema_extra=DISTINCT
    )
    exclude: tuple[DiskName, ...] = Field(
        default=(), max_length=64, description="Back up all disks but these.", json_schema_extra=DISTINCT
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.include and self.exclude:
            raise ValueError(EITHER_LIST)
        return self


class OverlayLimits(Document):
    """Snapshot method: when to give up the copy and take the VM home."""

    max_bytes: Quantity = Field(default="20Gi", description="Size that the overlays of the VM may reach together.")
    max_seconds: int = Field(default=1800, ge=10, le=86400, description="Time that the VM may spend on overlays.")


class VMBackupSpec(Document):
    """What to back up, where to and how. Immutable but for `cancel`."""

    model_config = ConfigDict(
        json_schema_extra=frozen_except(
            "cancel", message="{} cannot be changed once the VMBackup exists: make a new VMBackup."
        )
    )

    source: Source
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
            "How to copy. Push: QEMU writes the copy beside its work, nothing changes for the VM. Snapshot: the VM "
            "writes to an overlay while its disks are copied, then the overlay is committed into them. "
            "Auto: Push where the libvirt daemon can (7.2.0 or newer), else Snapshot; the status says why."
        ),
    )
    disks: DiskSelection = Field(default_factory=DiskSelection)
    quiesce: Quiesce = Field(
        default=Quiesce.IF_AVAILABLE,
        description=(
            "Whether the guest agent freezes the guest's file systems for the moment that the copy shows. "
            "Never: no. IfAvailable: where it answers. Required: fail when it does not."
        ),
    )
    verify: Verify = Field(
        default=Verify.CHECK,
        description=(
            "What is done before the set is published. None: nothing. Check: image consistency and sizes. "
            "Checksum: also a SHA-256 of every file."
        ),
    )
    max_bytes_per_second: Quantity | None = Field(
        default=None, description="Upper bound of the copy's speed, for all disks together."
    )
    deadline_seconds: int = Field(
        default=3600,
        ge=1,
        le=604800,
        description="Time for the whole backup, from its start on the node. Then it stops and the VM is taken home.",
    )
    overlay: OverlayLimits = Field(default_factory=OverlayLimits)
    cancel: bool = Field(
        default=False,
        description="Set to true to stop the backup and take the VM home. The only field that may change.",
        json_schema_extra=rule("self || !oldSelf", "cancel cannot be taken back: make a new VMBackup."),
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=315360000, description="Remove this resource so long after its end. The set stays."
    )

    @property
    def limit_bytes_per_second(self) -> int:
        """Return the speed limit in bytes per second, 0 for none."""
        return parse_bytes(self.max_bytes_per_second) if self.max_bytes_per_second else 0


class MethodReport(Report):
    """How the copy is made."""

    used: Method = Field(description="Push or Snapshot.")
    reason: str = Field(max_length=512, description="Why this method.")


DiskState = Literal["Skipped", "Waiting", "Copying", "Copied", "Verified", "Failed"]


class DiskReport(Report):
    """One disk of the VM and what became of it."""

    name: str = Field(max_length=16, description="Target name of the disk in the VM.")
    format: str = Field(default="", max_length=16, description="Format of the image in the set.")
    virtual_bytes: int = Field(default=0, ge=0, description="Size of the disk as the guest sees it.")
    stored_bytes: int = Field(default=0, ge=0, description="Bytes that the image occupies in the set.")
    state: DiskState = Field(description="How far the disk is.")
    reason: str = Field(default="", max_length=512, description="Why the disk was skipped or failed.")
    sha256: str = Field(default="", max_length=64, description="SHA-256 of the image, with verify: Checksum.")


class Progress(Report):
    """How far the copy is."""

    bytes_done: int = Field(default=0, ge=0, description="Bytes done; holes count as done.")
    bytes_total: int = Field(default=0, ge=0, description="Size of all disks together.")
    percent: int = Field(default=0, ge=0, le=100, description="Part that is done.")
    bytes_per_second: int = Field(default=0, ge=0, description="Speed at present.")
    eta_seconds: int | None = Field(default=None, ge=0, description="Time until the copy is done at this speed.")


class Summary(Report):
    """The same figures as text, for the columns of `kubectl get`. Programs read the fields they come from."""

    progress: str = Field(default="", max_length=16, description="progress.percent, such as 42%.")
    size: str = Field(default="", max_length=16, description="storedBytes, such as 1.2 GiB.")
    duration: str = Field(default="", max_length=16, description="From start to completion, such as 3m05s.")

    @classmethod
    def of(
        cls, *, percent: int | None = None, stored_bytes: int | None = None, seconds: float | None = None
    ) -> "Summary":
        """Return the texts of what is known; None leaves a column empty."""
        return cls(
            progress="" if percent is None else f"{percent}%",
            size="" if stored_bytes is None else human_bytes(stored_bytes),
            duration="" if seconds is None else human_seconds(seconds),
        )


class Executor(Report):
    """Who works on it."""

    node: str = Field(max_length=253, description="Node of the agent.")
    session: str = Field(max_length=64, description="Random word per start of the agent.")


class VMBackupStatus(Report):
    """The report. Nothing reads it to find out what to do on a disk."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this speaks of.")
    node: str | None = Field(default=None, max_length=253, description="Node whose agent does the work.")
    phase: Phase = Field(
        default=Phase.PENDING, description="What is being done now. Done: nothing more will be; see the outcome."
    )
    outcome: Outcome | None = Field(default=None, description="How it ended, or will end when the VM is home.")
    attempt: int = Field(default=0, ge=0, description="Number of the present attempt, from 1.")
    method: MethodReport | None = None
    disks: tuple[DiskReport, ...] = Field(
        default=(), max_length=128, description="Every disk of the VM.", json_schema_extra=keyed_by("name")
    )
    progress: Progress | None = None
    summary: Summary | None = None
    start_time: Timestamp | None = Field(default=None, description="When the node began.")
    completion_time: Timestamp | None = Field(default=None, description="When nothing was left to do.")
    frozen_milliseconds: int | None = Field(
        default=None, ge=0, description="How long the guest's file systems were frozen."
    )
    overlay_milliseconds: int | None = Field(
        default=None, ge=0, description="Snapshot method: how long the VM wrote to overlays."
    )
    stored_bytes: int | None = Field(default=None, ge=0, description="Size of the published set.")
    set: str | None = Field(default=None, max_length=1024, description="Path of the set relative to the location.")
    executor: Executor | None = None
    conditions: Conditions = ()


class ObjectMeta(Report):
    """The part of a resource's metadata that we read."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()


class VMBackup(Report):
    """Backs up one running VM once. Immutable: make a new one for a new backup."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.metadata.name.size() <= 63",
            "Give the VMBackup a name of at most 63 characters: it becomes part of the name of the set's directory.",
            field=".metadata.name",
        )
    )

    api_version: str = ""
    kind: str = "VMBackup"
    metadata: ObjectMeta
    spec: VMBackupSpec
    status: VMBackupStatus = Field(default_factory=VMBackupStatus)

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def finished(self) -> bool:
        return self.status.phase is Phase.DONE

    @classmethod
    def parse(cls, body: Any) -> "VMBackup":
        """Read a resource as the API server returned it.

        Raises: pydantic.ValidationError: the object was stored before the schema was in force, or is not ours.
        """
        return cls.model_validate(dict(body))
