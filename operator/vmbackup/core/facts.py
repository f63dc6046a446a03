"""What was seen at one moment. Facts beat records: a decision starts from these.

Sizes are bytes, times seconds since the epoch, paths as the node sees them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vmbackup.core.steps import Step
from vmbackup.errors import VMBackupError


@dataclass(frozen=True)
class Image:
    """One layer of a backing chain."""

    path: str
    format: str
    kind: str


@dataclass(frozen=True)
class BlockJob:
    """A block job on one disk, as blockJobInfo and `<mirror>` show it."""

    kind: str
    bytes_done: int = 0
    bytes_total: int = 0
    ready: bool = False
    mirror_path: str = ""


@dataclass(frozen=True)
class DiskFacts:
    target: str
    device: str = "disk"
    kind: str = "file"
    source: str = ""
    format: str = "raw"
    readonly: bool = False
    shareable: bool = False
    transient: bool = False
    encrypted: bool = False
    backing: tuple[Image, ...] = ()
    inactive_source: str | None = None
    virtual_bytes: int = 0
    allocated_bytes: int = 0
    job: BlockJob | None = None


@dataclass(frozen=True)
class BackupJob:
    """The domain's running job. `targets` is empty unless libvirt shows a push backup."""

    operation: str
    bytes_done: int = 0
    bytes_total: int = 0
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CompletedJob:
    """libvirt's completed statistics; kept by the daemon until read."""

    operation: str
    success: bool
    error: str = ""


@dataclass(frozen=True)
class DomainFacts:
    name: str
    uuid: str
    state: Literal["running", "paused", "off", "absent"]
    paused_by_io_error: bool = False
    persistent: bool = True
    instance: str = ""
    guest_agent: bool = False
    disks: tuple[DiskFacts, ...] = ()
    job: BackupJob | None = None
    completed: CompletedJob | None = None
    snapshots: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")

    def disk(self, target: str) -> DiskFacts | None:
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True)
class HostFacts:
    """What the hypervisor of a node is. Versions as libvirt counts them: 9.0.0 is 9000000."""

    libvirt_version: int
    hypervisor_version: int
    may_use_monitor: bool = False
    confined_by_apparmor: bool = False
    in_pod: bool = False  # a launcher pod: its files go with it


@dataclass(frozen=True)
class Work:
    """A copy or a verification that runs beside us: a child process or a thread."""

    kind: Literal["copy", "verify"]
    state: Literal["running", "done", "failed"]
    bytes_done: int = 0
    error: str = ""
    stored_bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class StoreFacts:
    """What the location and the overlays look like. Keys of the mappings are disk targets.

    problem: why the location cannot be used now. `passing`: it may go by itself; `silent`: nothing is known but that
    the location does not answer. written_at: by path, when a base or an overlay was last written to.
    """

    problem: str = ""
    passing: bool = False
    silent: bool = False
    free_bytes: int = 0
    reserve_bytes: int = 0
    partial: bool = False
    published: bool = False
    mounted: bool = False  # into the launcher pod
    works: Mapping[str, Work] = field(default_factory=dict)
    open_images: frozenset[str] = frozenset()
    overlay_bytes: Mapping[str, int] = field(default_factory=dict)
    overlay_free_bytes: int | None = None
    written_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wishes:
    """What the user wants now, as far as the API server could be heard."""

    cancel: bool = False
    deleted: bool = False
    stopping: bool = False  # the agent is about to end: no VM may be left on an overlay for it


@dataclass(frozen=True)
class LastAct:
    """The act of the turn before, and how it ended. Lost with the process: then only facts speak."""

    step: Step
    error: VMBackupError | None = None
    value: int | None = None


@dataclass(frozen=True)
class Facts:
    domain: DomainFacts | None
    store: StoreFacts
    wishes: Wishes = Wishes()
    last: LastAct | None = None
    hypervisor_problem: str = ""
    still_seconds: float = 0.0  # since anything was last seen to move
