"""The node journal of restores: one record per restore under way, on disk before anything is done.

Times are seconds since the epoch, sizes bytes, paths absolute unless said otherwise.
"""

import posixpath
from typing import Literal

from pydantic import Field

from vmbackup.api.journal import Failure
from vmbackup.api.model import Document
from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.api.vmbackup import Outcome

LIVE_KINDS = frozenset({RestoreKind.INSTANT, RestoreKind.PROOF})  # they run on overlays over the set
NEW_VM_KINDS = frozenset({RestoreKind.NEW_DOMAIN, RestoreKind.INSTANT, RestoreKind.PROOF})


class RestoreDisk(Document):
    """One disk that is restored."""

    target: str
    image: str = Field(description="File name in the set.")
    image_format: Literal["qcow2", "raw"]
    virtual_bytes: int
    allocated_bytes: int = Field(description="What the image occupies in the set.")
    sha256: str = ""
    file: str = Field(description="Path of the restored image.")
    format: Literal["qcow2", "raw"] = Field(description="Format of the restored image.")
    copied: bool = False
    verified: bool = False
    pulled: bool = Field(
        default=False, description="Instant: all is on disk, and nothing of the set is needed any more."
    )


class ProofResult(Document):
    """What a proof has seen."""

    heartbeat: str
    seconds: int
    evidence: str = ""


class RestoreRun(Document):
    """One restore under way on this node. `domain` is empty where no libvirt domain is concerned."""

    schema_version: Literal[1] = 1
    uid: str
    namespace: str
    name: str
    node: str = ""
    spec: VMRestoreSpec
    kind: RestoreKind
    vm: str = Field(description="The VM that the set is a backup of.")
    location: str = Field(description="Name of the location, for the report.")
    location_path: str
    set_path: str = Field(description="Path of the set, relative to the location.")
    backup_uid: str
    point_in_time: str
    images_path: str = Field(description="The node's directory for restored images.")
    min_free: str = "5%"
    domain: str = ""
    domain_uuid: str = ""
    disks: tuple[RestoreDisk, ...]

    phase: RestorePhase = RestorePhase.PREPARING
    outcome: Outcome | None = None
    failure: Failure | None = None
    started_at: float
    finished_at: float | None = None
    not_before: float = Field(default=0.0, description="Earliest time of the next try of what did not work.")
    tries: int = Field(default=0, description="Failed tries of the present step.")
    trouble: str = Field(default="", description="What the last failed try said, for the user to read.")
    begun: bool = Field(default=False, description="Files of ours were intended.")
    defined: bool = Field(default=False, description="The definition of our domain was intended.")
    flushing: bool = Field(default=False, description="Instant: the guest was to be paused for a flush.")
    flattening: bool = Field(default=False, description="Instant: an image was to be completed with the guest off.")
    running_at: float | None = Field(default=None, description="When the restored VM was first seen running.")
    proof: ProofResult | None = None
    proof_written: bool = False
    left: str = Field(default="", description="What of ours could not be removed: a human must.")
    attempt: Literal[1] = 1

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def label(self) -> str:
        """Return what the restore is about, for messages."""
        return self.domain or self.vm

    @property
    def directory(self) -> str:
        """Return the directory of the restored images, relative to `images_path`."""
        return f"{self.namespace}/{self.name}-{self.uid[:8]}"

    @property
    def partial_path(self) -> str:
        """Return the working directory, relative to `images_path`; it becomes `directory` by one rename."""
        return f"{self.namespace}/.{self.name}.{self.uid}.partial"

    @property
    def deadline_at(self) -> float:
        return self.started_at + self.spec.deadline_seconds

    def disk(self, target: str) -> RestoreDisk:
        return next(disk for disk in self.disks if disk.target == target)

    def with_disk(self, target: str, **changes: object) -> "RestoreRun":
        """Return the run with one disk changed."""
        disks = tuple(disk.model_copy(update=changes) if disk.target == target else disk for disk in self.disks)
        return self.model_copy(update={"disks": disks})

    def working_file(self, disk: RestoreDisk) -> str:
        """Return the path of the image while it is made."""
        directory, name = posixpath.split(disk.file)
        if self.kind is RestoreKind.IN_PLACE:
            return f"{directory}/.{name}.restore.{self.uid}"
        return f"{self.images_path}/{self.partial_path}/{name}"

    def old_file(self, disk: RestoreDisk) -> str:
        """In place: return the path under which the old image is kept."""
        return f"{disk.file}.before-restore.{self.uid[:8]}"
