"""The spec of a VMRestore: which set, and what is to come of it."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vmbackup.api.model import Document
from vmbackup.api.schema import DISTINCT, TIMESTAMP, explained, frozen_except, rule
from vmbackup.api.spec import NAME_PATTERN, DiskName, Quantity, Verify
from vmbackup.units import parse_bytes

ONE_SOURCE = "Name one source: either backup, or set."
ONE_TARGET = "Name one target: newDomain, disks, inPlace, instant or proof."
TARGETS = ("new_domain", "disks", "in_place", "instant", "proof")

VMName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=180,
        pattern=NAME_PATTERN,
        json_schema_extra=explained(
            "Write a VM's name with letters, digits, '.', '_' and '-'; it starts and ends with a letter or a digit."
        ),
    ),
]
ResourceName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        json_schema_extra=explained("Write the name of a resource: lower case letters, digits, '-' and '.'."),
    ),
]
Disks = Annotated[
    tuple[DiskName, ...],
    Field(max_length=64, json_schema_extra=DISTINCT),
]


class MACAddresses(StrEnum):
    REGENERATE = "Regenerate"
    KEEP = "Keep"


class ImageFormat(StrEnum):
    KEEP = "Keep"
    QCOW2 = "QCOW2"
    RAW = "Raw"


class SetSelection(Document):
    """A set by what its manifest says; the VMBackup that made it may be long gone."""

    location: ResourceName = Field(description="Name of the VMBackupLocation that holds the set.")
    vm: VMName = Field(description="The VM's name at the time of the backup. It was of this namespace.")
    at_or_before: Annotated[str, Field(max_length=32, json_schema_extra=TIMESTAMP)] | None = Field(
        default=None,
        description="The newest set whose point in time is not after this moment. Without it: the newest of all.",
    )


class RestoreSource(Document):
    """Which set: of a VMBackup, or found in a location."""

    model_config = ConfigDict(json_schema_extra=rule("has(self.backup) != has(self.set)", ONE_SOURCE))

    backup: ResourceName | None = Field(default=None, description="A VMBackup of this namespace that has succeeded.")
    set: SetSelection | None = Field(default=None, description="A set of this namespace in a location.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.backup is None) == (self.set is None):
            raise ValueError(ONE_SOURCE)
        return self


class NewDomain(Document):
    """A second VM beside the first: copies of all images, a new name and UUID."""

    name: VMName = Field(description="Name of the new VM in this namespace. No VM may have it yet.")
    mac_addresses: MACAddresses = Field(
        default=MACAddresses.REGENERATE,
        description="Regenerate: libvirt chooses new ones. Keep: only when the first VM is gone for good.",
    )
    start: bool = Field(default=False, description="Start the new VM.")


class DiskFiles(Document):
    """Images as files, for a VM of any kind: below the node's directory for restored images."""

    include: Disks = Field(default=(), description="Restore these disks only; by default all of the set.")
    format: ImageFormat = Field(
        default=ImageFormat.KEEP,
        description="Keep leaves images as they are in the set, QCOW2 and Raw convert them; Raw fits KubeVirt.",
    )


class InPlace(Document):
    """The VM's own disks get the content of the set. The VM must be off."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "self.overwrite",
            "inPlace replaces the VM's disks: write overwrite: true, or restore beside the VM with newDomain.",
            field=".overwrite",
        )
    )

    overwrite: bool = Field(description="Must be true: what the VM has written since the backup is given up.")
    include: Disks = Field(default=(), description="Restore these disks only; by default all of the set.")
    keep_old_disks: bool = Field(
        default=False,
        description="Leave the old images beside the new ones as <image>.before-restore.<uid8>; else they are removed.",
    )
    start: bool = Field(default=False, description="Start the VM afterwards.")

    @model_validator(mode="after")
    def _wanted(self) -> Self:
        if not self.overwrite:
            raise ValueError("inPlace replaces the VM's disks: write overwrite: true, or use newDomain.")
        return self


class Instant(Document):
    """A new VM that runs within seconds on overlays over the set, while its data is brought in the background."""

    name: VMName = Field(description="Name of the new VM in this namespace. No VM may have it yet.")
    mac_addresses: MACAddresses = Field(
        default=MACAddresses.REGENERATE,
        description="Regenerate: libvirt chooses new ones. Keep: only when the first VM is gone for good.",
    )


class BootProof(Document):
    """How a copy is booted for a proof, and what counts as a sign of life."""

    boot_seconds: int = Field(
        default=300, ge=5, le=3600, description="How long a heartbeat is waited for before the proof has failed."
    )
    max_memory: Quantity = Field(default="1Gi", description="Memory of the copy: the VM's own, but not more than this.")
    serial_pattern: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="Text on the serial console of a guest that is up; looked for where no agent answers.",
    )
    alive_seconds: int = Field(
        default=60,
        ge=1,
        le=3600,
        description="Without agent and pattern: the guest must still run after so long and have read from its disk.",
    )


class Proof(BootProof):
    """Proves the set and leaves nothing but the result: by booting an isolated copy, or by reading it again."""

    kind: Literal["Boot", "Scrub"] = Field(
        default="Boot",
        description=(
            "Boot: a copy without network is booted on overlays over the set. Scrub: the set is read and checked again "
            "as far as verify says, nothing is booted."
        ),
    )


class RestoreTarget(Document):
    """What comes of the set: exactly one of them."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "[has(self.newDomain), has(self.disks), has(self.inPlace), has(self.instant), has(self.proof)]"
            ".filter(named, named).size() == 1",
            ONE_TARGET,
        )
    )

    new_domain: NewDomain | None = Field(default=None, description="A second VM from copies of all images.")
    disks: DiskFiles | None = Field(default=None, description="Images of the set as files in a directory of the node.")
    in_place: InPlace | None = Field(default=None, description="The VM's own disks, while it is off.")
    instant: Instant | None = Field(default=None, description="A new VM at once, its data later.")
    proof: Proof | None = Field(default=None, description="A trial that leaves nothing but its result.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(getattr(self, name) is not None for name in TARGETS) != 1:
            raise ValueError(ONE_TARGET)
        return self


class VMRestoreSpec(Document):
    """Which set to restore, and into what. Immutable but for `cancel`."""

    model_config = ConfigDict(
        json_schema_extra=frozen_except(
            "cancel", message="{} cannot be changed once the VMRestore exists: make a new VMRestore."
        )
    )

    source: RestoreSource
    target: RestoreTarget
    node: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description=(
            "Node that does it: by default the VM's node for inPlace, else the node that wrote the set. "
            "Needed where that cannot be told."
        ),
    )
    verify: Verify = Field(
        default=Verify.CHECKSUM,
        description=(
            "What is done before the restored images are used. None looks at sizes and headers, Check also runs "
            "qemu-img check, Checksum also compares the SHA-256 of every image where the set has them."
        ),
    )
    deadline_seconds: int = Field(
        default=86400,
        ge=1,
        le=604800,
        description="Time for the whole restore, from its start on the node. An instant VM that runs is not stopped.",
    )
    max_bytes_per_second: Quantity | None = Field(
        default=None, description="Upper bound of the speed of copying, scrubbing and bringing data, for each disk."
    )
    cancel: bool = Field(
        default=False,
        description="Set to true to stop and remove what was made so far. The only field that may change.",
        json_schema_extra=rule("self || !oldSelf", "cancel cannot be taken back: make a new VMRestore."),
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None, ge=0, le=315360000, description="Remove this resource so long after its end."
    )

    @property
    def limit_bytes_per_second(self) -> int:
        """Return the speed limit in bytes per second, 0 for none."""
        return parse_bytes(self.max_bytes_per_second) if self.max_bytes_per_second else 0
