"""VMBackup: the request of one full backup of one VM, and the report of what came of it."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from vmbackup.api.conditions import Conditions
from vmbackup.api.model import Report
from vmbackup.api.schema import TIMESTAMP, keyed_by, rule
from vmbackup.api.spec import (
    NAME_PATTERN,
    DiskSelection,
    Method,
    OverlayLimits,
    Quiesce,
    Source,
    SourceKind,
    Verify,
    VMBackupSpec,
)
from vmbackup.units import human_bytes, human_seconds

__all__ = [
    "NAME_PATTERN",
    "DiskReport",
    "DiskSelection",
    "DiskState",
    "Executor",
    "Method",
    "MethodReport",
    "ObjectMeta",
    "Outcome",
    "OverlayLimits",
    "Phase",
    "Progress",
    "ProofRecord",
    "Quiesce",
    "Source",
    "SourceKind",
    "Summary",
    "VMBackup",
    "VMBackupSpec",
    "VMBackupStatus",
    "Verify",
]

Timestamp = Annotated[str, Field(max_length=32, json_schema_extra=TIMESTAMP)]


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

    @property
    def exit_code(self) -> int:
        """Return what a command ends with that waits for it: 0 succeeded, 1 failed, 2 refused, 3 cancelled, …"""
        codes = {Outcome.SUCCEEDED: 0, Outcome.FAILED: 1, Outcome.REFUSED: 2, Outcome.CANCELLED: 3}
        return codes.get(self, 4)


class MethodReport(Report):
    """Which method makes the copy, and why."""

    used: Method = Field(description="Method that makes the copy: Push or Snapshot.")
    reason: str = Field(max_length=512, description="Why this method was taken, in words.")


DiskState = Literal["Skipped", "Waiting", "Copying", "Copied", "Verified", "Failed"]


class DiskReport(Report):
    """One disk of the VM and what became of it."""

    name: str = Field(max_length=16, description="Target name of the disk in the VM, such as vda.")
    format: str = Field(default="", max_length=16, description="Format of the image in the set: qcow2 or raw.")
    virtual_bytes: int = Field(default=0, ge=0, description="Size of the disk in bytes, as the guest sees it.")
    stored_bytes: int = Field(default=0, ge=0, description="Bytes that the image occupies in the set.")
    state: DiskState = Field(description="How far the copy of this disk has come, or that it is skipped.")
    reason: str = Field(
        default="", max_length=512, description="Why the disk is skipped or has failed; empty otherwise."
    )
    sha256: str = Field(
        default="",
        max_length=64,
        description="SHA-256 of the image in hexadecimal digits. Only with `verify: Checksum`.",
    )


class Progress(Report):
    """How far the copy of all disks has come."""

    bytes_done: int = Field(default=0, ge=0, description="Bytes that are done; holes count as done.")
    bytes_total: int = Field(default=0, ge=0, description="Size in bytes of all disks that are backed up.")
    percent: int = Field(default=0, ge=0, le=100, description="Part of the copy that is done, from 0 to 100.")
    bytes_per_second: int = Field(default=0, ge=0, description="Speed of the copy at present, in bytes per second.")
    eta_seconds: int | None = Field(
        default=None, ge=0, description="Seconds until the copy is done, if it goes on at this speed."
    )


class Summary(Report):
    """The same figures as text, for the columns of `kubectl get`. Programs read the fields they come from."""

    progress: str = Field(default="", max_length=16, description="Part of the copy that is done, such as 42%.")
    size: str = Field(default="", max_length=16, description="Size of the published set, such as 1.2 GiB.")
    duration: str = Field(default="", max_length=16, description="Time from start to completion, such as 3m05s.")

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


class ProofRecord(Report):
    """The newest proof of one kind that the set was put to. The same is in proof.json beside the set."""

    kind: Literal["Boot", "Scrub"] = Field(description="Boot: a copy was booted. Scrub: the set was read again.")
    succeeded: bool = Field(description="Whether the set has stood the proof.")
    time: Timestamp = Field(description="When the proof was over (RFC 3339).")
    heartbeat: str = Field(
        default="",
        max_length=64,
        description="What counted as a sign of life: GuestAgent, SerialPattern, DiskActivity, or None.",
    )
    seconds: int = Field(default=0, ge=0, description="Seconds from the start of the copy to its sign of life.")
    evidence: str = Field(default="", max_length=1024, description="The last lines of the copy's serial console.")
    message: str = Field(default="", max_length=1024, description="What was found, in words.")
    restore: str = Field(default="", max_length=253, description="Name of the VMRestore that did it.")


class Executor(Report):
    """Which agent works on the backup, and which start of it."""

    node: str = Field(max_length=253, description="Name of the agent's node.")
    session: str = Field(max_length=64, description="Random word that tells one start of the agent from another.")


class VMBackupStatus(Report):
    """What came of the backup so far. It is a report only: nothing reads it to decide what to do with a disk."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status speaks of.")
    node: str | None = Field(default=None, max_length=253, description="Name of the node whose agent does the work.")
    phase: Phase = Field(
        default=Phase.PENDING,
        description="What is being done now. Done means that nothing more will be; the outcome tells how it ended.",
    )
    outcome: Outcome | None = Field(
        default=None, description="How the backup ended, or will end as soon as the VM is on its own disks again."
    )
    attempt: int = Field(default=0, ge=0, description="Number of the present attempt, beginning with 1.")
    method: MethodReport | None = None
    disks: tuple[DiskReport, ...] = Field(
        default=(),
        max_length=128,
        description="Every disk of the VM, the skipped ones with the reason.",
        json_schema_extra=keyed_by("name"),
    )
    progress: Progress | None = None
    summary: Summary | None = None
    start_time: Timestamp | None = Field(default=None, description="When the agent of the node began (RFC 3339).")
    completion_time: Timestamp | None = Field(default=None, description="When nothing was left to do (RFC 3339).")
    frozen_milliseconds: int | None = Field(
        default=None, ge=0, description="How many milliseconds the guest's file systems were frozen."
    )
    overlay_milliseconds: int | None = Field(
        default=None, ge=0, description="How many milliseconds the VM wrote to overlays. Snapshot method only."
    )
    stored_bytes: int | None = Field(default=None, ge=0, description="Bytes that the published set occupies.")
    set: str | None = Field(
        default=None, max_length=1024, description="Path of the published set, relative to the location's directory."
    )
    proofs: tuple[ProofRecord, ...] = Field(
        default=(),
        max_length=2,
        description="The newest proof of each kind that the set was put to.",
        json_schema_extra=keyed_by("kind"),
    )
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
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


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
