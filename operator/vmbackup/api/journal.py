"""The node journal: one record per running backup, on disk before anything is done to a VM.

A `Run` is all that a restarted agent needs to take the VM home without the API server.
Times are seconds since the epoch, sizes bytes, paths absolute unless said otherwise.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.model import Document
from vmbackup.api.vmbackup import Method, Outcome, Phase, VMBackupSpec


class Freeze(StrEnum):
    """What we know of the guest's file systems."""

    NOT_TRIED = "NotTried"
    INTENDED = "Intended"  # a freeze was asked for: the guest may be frozen
    FROZEN = "Frozen"
    OVER = "Over"  # thawed, or nothing was ever frozen


class Failure(Document):
    """Why the outcome is not success. `heals`: a new attempt may succeed."""

    reason: Reason
    message: str
    heals: bool = False


class Quiesced(Document):
    """What the Quiesced condition will say."""

    done: bool
    reason: Reason
    message: str = ""


class RunDisk(Document):
    """One disk in the set, as it was when the run began, and how far it has come."""

    target: str
    source: str = Field(description="Path of the active layer before we touched the VM.")
    source_kind: Literal["file", "block"]
    source_format: str
    backing: tuple[str, ...] = Field(default=(), description="Paths below the source, top to bottom.")
    inactive_source: str | None = Field(default=None, description="Source in the persistent definition, if any.")
    virtual_bytes: int
    allocated_bytes: int = Field(default=0, description="What the copy is expected to occupy.")
    image: str = Field(description="File name in the set.")
    image_format: str
    overlay: str = Field(default="", description="Snapshot method: path of our overlay.")
    copied: bool = False
    commits: int = Field(default=0, description="Commits of the overlay that were started.")
    pivot_instance: str = Field(default="", description="QEMU process in which the pivot was intended.")
    base_written_at: float | None = Field(default=None, description="Base's last write when the pivot was intended.")
    followed: bool = Field(default=False, description="The definition named our overlay when the pivot was intended.")
    verified: bool = False
    stored_bytes: int = 0
    sha256: str = ""


class SkippedDisk(Document):
    target: str
    reason: str


class Launcher(Document):
    """The pod in which libvirt and QEMU of a KubeVirt-style VM run."""

    pod_uid: str
    directory: str = Field(description="Where the pod sees its volume hotplug-disks.")
    owner_uid: int = Field(description="User whom the daemon lets write the images, as the host counts users.")
    owner_gid: int


def lock_name(launcher: Launcher | None, domain_uuid: str) -> str:
    """Return what is held while a VM is worked on. A domain's UUID in a pod is its tenant's choice."""
    return launcher.pod_uid if launcher else domain_uuid


class Run(Document):
    """One backup under way on this node."""

    schema_version: Literal[1] = 1
    uid: str
    namespace: str
    name: str
    attempt: int = 1
    domain: str
    domain_uuid: str
    vm: str = Field(description="The VM's name as the user writes it.")
    launcher: Launcher | None = Field(default=None, description="Where libvirt is, when not on the host itself.")
    instance: str = Field(description="The QEMU process at the start: boot, pid and start time.")
    paused: bool = Field(default=False, description="The VM was paused when the attempt was planned.")
    spec: VMBackupSpec
    location_path: str
    min_free: str = Field(default="5%", description="Space that the location must keep free: bytes or percent.")
    stall_seconds: int = Field(default=300, description="Time without any progress that counts as a fault.")
    overlay_directory: str = Field(description="Where overlays of block devices go.")
    set_path: str = Field(description="Path of the published set, relative to the location.")
    method: Method
    method_reason: str
    libvirt_version: str = ""
    hypervisor_version: str = ""
    disks: tuple[RunDisk, ...]
    skipped: tuple[SkippedDisk, ...] = ()

    phase: Phase = Phase.PREPARING
    outcome: Outcome | None = None
    failure: Failure | None = None
    started_at: float
    attempt_started_at: float
    finished_at: float | None = None
    not_before: float = Field(default=0.0, description="Earliest time of the next try of what did not work.")
    tries: int = Field(default=0, description="Failed tries of the present step.")
    trouble: str = Field(default="", description="What the last failed try said, for the user to read.")

    freeze: Freeze = Freeze.NOT_TRIED
    frozen_at: float | None = None
    frozen_milliseconds: int | None = None
    thaw_tries: int = 0
    thaw_not_before: float = Field(default=0.0, description="Earliest time of the next thaw after a refused one.")
    resume_tries: int = 0
    quiesced: Quiesced | None = None
    point_in_time: float | None = Field(default=None, description="When the copy's content was fixed.")
    made: bool = Field(default=False, description="The working directory of this attempt was intended.")
    mounted: bool = Field(default=False, description="The mount into the launcher pod was intended.")
    debris: bool = Field(default=False, description="The run is over, but its working directory may still be there.")
    covered: bool = Field(default=False, description="Stranded below somebody's layer: merged when that is gone.")
    began: bool = Field(default=False, description="The push job or the snapshot was intended.")
    named: bool = Field(default=False, description="The rename of the set to its final name was intended.")
    limited: bool = Field(default=False, description="The speed limit is in force.")
    overlay_at: float | None = None
    overlay_milliseconds: int | None = None
    left: str = Field(default="", description="What of ours could not be removed: a human must.")

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def maybe_frozen(self) -> bool:
        """Return whether the guest's file systems may be frozen by us."""
        return self.freeze in (Freeze.INTENDED, Freeze.FROZEN)

    @property
    def on_overlay(self) -> bool:
        """Return whether the VM may be on our overlay."""
        return self.overlay_at is not None and self.overlay_milliseconds is None

    @property
    def lock_name(self) -> str:
        return lock_name(self.launcher, self.domain_uuid)

    @property
    def partial_path(self) -> str:
        """Return the working directory of this attempt, relative to the location; published by one rename."""
        return f"{self.set_path.rpartition('/')[0]}/{self.partial_name}"

    @property
    def partial_name(self) -> str:
        return names.partial_name(self.set_path.rpartition("/")[2], self.uid, self.attempt)

    @property
    def target_directory(self) -> str:
        """Return where libvirt sees the working directory: in its pod through a mount, else where it is."""
        if self.launcher is not None:
            return f"{self.launcher.directory}/{self.partial_name}"
        return f"{self.location_path}/{self.partial_path}"

    @property
    def deadline_at(self) -> float:
        return self.started_at + self.spec.deadline_seconds

    def overlay_file(self, target: str) -> str:
        return names.overlay_name(self.uid, self.attempt, target)

    def disk(self, target: str) -> RunDisk:
        return next(disk for disk in self.disks if disk.target == target)

    def with_disk(self, target: str, **changes: object) -> "Run":
        """Return the run with one disk changed."""
        disks = tuple(disk.model_copy(update=changes) if disk.target == target else disk for disk in self.disks)
        return self.model_copy(update={"disks": disks})
