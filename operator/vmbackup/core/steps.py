"""What may be done to a VM or a location: one small record per act. At most one is done per turn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DrainStatistics:
    """Read away the completed job statistics of an earlier job, so that what comes later is ours."""


@dataclass(frozen=True)
class FreezeGuest:
    """Freeze the guest's file systems; thawed by a watchdog after `limit_seconds` whatever happens."""

    limit_seconds: float


@dataclass(frozen=True)
class ThawGuest:
    """Thaw the guest's file systems; the value is how long they were frozen, in milliseconds."""


@dataclass(frozen=True)
class BeginPush:
    """virDomainBackupBegin: all disks in one job, one point in time. Pairs of target and absolute path."""

    targets: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LimitSpeed:
    """Slow the running push job down to so many bytes per second, over all its disks."""

    targets: tuple[str, ...]
    bytes_per_second: int


@dataclass(frozen=True)
class AbortJob:
    """virDomainAbortJob: libvirt deletes the targets. No job is as good as an aborted one."""


@dataclass(frozen=True)
class TakeSnapshot:
    """One atomic external snapshot without metadata: every listed disk gets our overlay on top."""

    overlays: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class StartCommit:
    """Active block-commit of our overlay into the recorded base, and not below it."""

    target: str
    base: str


@dataclass(frozen=True)
class Pivot:
    """Make QEMU write to the base again: blockJobAbort with the pivot flag."""

    target: str


@dataclass(frozen=True)
class ResumeGuest:
    """Let a guest run on that QEMU has paused for an I/O error: its overlay, or the set, had no more room."""


@dataclass(frozen=True)
class MakeDirectory:
    """Make the `.partial` directory of this attempt and write domain.xml into it."""

    domain_xml: bool = True


@dataclass(frozen=True)
class MountDirectory:
    """Show the working directory to the VM's launcher pod, by a bind mount into its volume hotplug-disks."""


@dataclass(frozen=True)
class UnmountDirectory:
    """Take the working directory from the launcher pod again; that it is not there is as good."""


@dataclass(frozen=True)
class StartCopy:
    """Copy the base of one disk into the set: a clone where the file system can, else a child process."""

    target: str


@dataclass(frozen=True)
class StopWorks:
    """Stop all copies and verifications of this run."""


@dataclass(frozen=True)
class RemoveOverlay:
    """Remove our overlay file; only asked for when the disk is on its base again."""

    target: str


@dataclass(frozen=True)
class StartVerification:
    """Check, hash and sync one image of the set."""

    target: str


@dataclass(frozen=True)
class Publish:
    """Write the manifest, sync everything, rename the set to its final name."""

    point_in_time: float


@dataclass(frozen=True)
class Discard:
    """Remove the `.partial` directory of this attempt."""


HypervisorStep = (
    DrainStatistics
    | FreezeGuest
    | ThawGuest
    | BeginPush
    | LimitSpeed
    | AbortJob
    | TakeSnapshot
    | StartCommit
    | Pivot
    | ResumeGuest
)
StoreStep = (
    MakeDirectory
    | MountDirectory
    | UnmountDirectory
    | StartCopy
    | StopWorks
    | RemoveOverlay
    | StartVerification
    | Publish
    | Discard
)
Step = HypervisorStep | StoreStep
