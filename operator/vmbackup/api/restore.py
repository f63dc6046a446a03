"""VMRestore: brings a backup set back as a VM, as disks or as files; and the report of what came of it."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field

from vmbackup.api.conditions import Conditions
from vmbackup.api.model import Report
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.api.schema import keyed_by, rule
from vmbackup.api.vmbackup import Executor, ObjectMeta, Outcome, Progress, Summary, Timestamp


class RestorePhase(StrEnum):
    """Where a restore is. Every target takes a part of them, in this order."""

    PENDING = "Pending"
    ASSIGNED = "Assigned"
    PREPARING = "Preparing"
    COPYING = "Copying"
    VERIFYING = "Verifying"
    PLACING = "Placing"
    DEFINING = "Defining"
    STARTING = "Starting"
    PROVING = "Proving"
    PULLING = "Pulling"
    CLEANING = "Cleaning"
    DISCARDING = "Discarding"
    DONE = "Done"


class RestoreKind(StrEnum):
    """The target in a word."""

    NEW_DOMAIN = "NewDomain"
    DISKS = "Disks"
    IN_PLACE = "InPlace"
    INSTANT = "Instant"
    PROOF = "Proof"


def kind_of(spec: VMRestoreSpec) -> RestoreKind:
    """Return the one target that the spec names."""
    target = spec.target
    named = {
        RestoreKind.NEW_DOMAIN: target.new_domain,
        RestoreKind.DISKS: target.disks,
        RestoreKind.IN_PLACE: target.in_place,
        RestoreKind.INSTANT: target.instant,
        RestoreKind.PROOF: target.proof,
    }
    return next(kind for kind, value in named.items() if value is not None)


RestoredState = Literal["Waiting", "Copying", "Copied", "Verified", "Pulling", "Restored", "Failed"]


class RestoredDisk(Report):
    """One disk of the set and what became of it."""

    name: str = Field(max_length=16, description="Target name of the disk.")
    format: str = Field(default="", max_length=16, description="Format of the restored image.")
    virtual_bytes: int = Field(default=0, ge=0, description="Size of the disk as the guest sees it.")
    state: RestoredState = Field(description="How far the disk is.")
    path: str = Field(default="", max_length=4096, description="The restored image on the node.")


class ProofReport(Report):
    """What the proof has seen."""

    heartbeat: str = Field(max_length=64, description="What counted: GuestAgent, SerialPattern or DiskActivity.")
    seconds: int = Field(ge=0, description="From the start of the copy to the heartbeat.")
    evidence: str = Field(default="", max_length=4096, description="The last lines of the serial console.")


class VMRestoreStatus(Report):
    """The report. Nothing reads it to find out what to do on a disk."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this speaks of.")
    node: str | None = Field(default=None, max_length=253, description="Node whose agent does the work.")
    phase: RestorePhase = Field(
        default=RestorePhase.PENDING, description="What is being done now. Done: nothing more will be."
    )
    outcome: Outcome | None = Field(default=None, description="How it ended, or will end.")
    kind: RestoreKind | None = Field(default=None, description="The target in a word.")
    set: str | None = Field(default=None, max_length=1024, description="Path of the set relative to the location.")
    location: str | None = Field(default=None, max_length=253, description="Location that holds the set.")
    vm: str | None = Field(default=None, max_length=180, description="The VM that the set is a backup of.")
    point_in_time: Timestamp | None = Field(default=None, description="The moment that the restored disks show.")
    domain: str | None = Field(default=None, max_length=253, description="Name of the restored libvirt domain.")
    disks: tuple[RestoredDisk, ...] = Field(
        default=(), max_length=128, description="Every disk that is restored.", json_schema_extra=keyed_by("name")
    )
    progress: Progress | None = None
    summary: Summary | None = None
    start_time: Timestamp | None = Field(default=None, description="When the node began.")
    running_time: Timestamp | None = Field(default=None, description="When the restored VM was started.")
    running_milliseconds: int | None = Field(
        default=None, ge=0, description="From the node's start of the work to the running VM."
    )
    completion_time: Timestamp | None = Field(default=None, description="When nothing was left to do.")
    proof: ProofReport | None = None
    executor: Executor | None = None
    conditions: Conditions = ()


class VMRestore(Report):
    """Restores one backup set once. Immutable: make a new one for a new restore."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.metadata.name.size() <= 63",
            "Give the VMRestore a name of at most 63 characters: it becomes part of the name of a directory.",
            field=".metadata.name",
        )
    )

    api_version: str = ""
    kind: str = "VMRestore"
    metadata: ObjectMeta
    spec: VMRestoreSpec
    status: VMRestoreStatus = Field(default_factory=VMRestoreStatus)

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def finished(self) -> bool:
        return self.status.phase is RestorePhase.DONE

    @classmethod
    def parse(cls, body: Any) -> "VMRestore":
        """Read a resource as the API server returned it.

        Raises: pydantic.ValidationError: the object was stored before the schema was in force, or is not ours.
        """
        return cls.model_validate(dict(body))
