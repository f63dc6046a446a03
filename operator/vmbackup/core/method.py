"""Which of the two methods takes the backup, and why."""

import re
from collections.abc import Iterable

from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import Method, VMBackupSpec
from vmbackup.core.facts import DiskFacts, HostFacts
from vmbackup.errors import Refused

FULL_PUSH = 7_002_000  # libvirt NEWS, v7.2.0: full backups no longer need incremental support
PUSH_HYPERVISOR = 4_002_000  # QEMU 4.2
LIMIT_KNOWN_GOOD = 9_000_999  # tried: 9.0.0 lets blockJobSetSpeed through during a backup, 11.3.0 blocks it
APPARMOR_COMMIT_FIXED = 12_001_000  # libvirt NEWS, v12.1.0: the deny rule on read-only backing files is gone

# The target becomes part of file names, by which our overlays are known again. libvirt itself checks it loosely.
PLAIN_TARGET = re.compile(r"[A-Za-z0-9_-]{1,64}")


def version(number: int) -> str:
    """Return libvirt's number of a version in the usual form: 9000000 is 9.0.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def push_obstacle(host: HostFacts) -> str:
    """Return why this daemon cannot push a full backup, empty when it can."""
    if host.libvirt_version < FULL_PUSH:
        return f"libvirt {version(host.libvirt_version)} cannot push a full backup, 7.2.0 can"
    if host.hypervisor_version < PUSH_HYPERVISOR:
        return f"QEMU {version(host.hypervisor_version)} cannot push a full backup, 4.2.0 can"
    return ""


def limit_obstacle(host: HostFacts, spec: VMBackupSpec) -> str:
    """Return why a running push job of this daemon cannot be held to the wanted speed, empty when it can."""
    if not spec.limit_bytes_per_second or host.libvirt_version <= LIMIT_KNOWN_GOOD or host.may_use_monitor:
        return ""
    return (
        f"libvirt {version(host.libvirt_version)} does not let a running push job be slowed down, and the agent "
        "may not use the monitor for it"
    )


def snapshot_obstacle(host: HostFacts, chosen: Iterable[DiskFacts]) -> str:
    """Return why these disks cannot be backed up by snapshot and commit, empty when they can."""
    if host.in_pod:
        return (
            "no snapshot is taken in a launcher pod, since an overlay does not survive it: the VM would start again "
            "without what its guest has written meanwhile"
        )
    shareable = [disk.target for disk in chosen if disk.shareable]
    if shareable:
        return f"disk {shareable[0]} is shareable, and libvirt takes no snapshot of a shareable disk; exclude it"
    if host.confined_by_apparmor and host.libvirt_version < APPARMOR_COMMIT_FIXED:
        return (
            f"AppArmor with libvirt {version(host.libvirt_version)} forbids the commit into the base image; "
            "libvirt 12.1.0 or security_driver = 'none' is needed"
        )
    return ""


def choose(spec: VMBackupSpec, host: HostFacts, vm: str, chosen: Iterable[DiskFacts]) -> tuple[Method, str]:
    """Return the method for the chosen disks of a VM, and the reason for it.

    Raises: Refused: the wanted method, or with Auto every method, is out of the question.
    """
    push, limit, snapshot = push_obstacle(host), limit_obstacle(host, spec), snapshot_obstacle(host, chosen)
    daemon = f"libvirt {version(host.libvirt_version)}"
    if spec.method is Method.PUSH:
        if push:
            raise Refused(Reason.METHOD_UNSUPPORTED, f"{push}. Use method Auto or Snapshot, or a newer libvirt.")
        if limit:
            raise Refused(Reason.SPEED_LIMIT_UNSUPPORTED, f"{limit}. Use method Snapshot or no maxBytesPerSecond.")
        return Method.PUSH, "asked for"
    if spec.method is Method.SNAPSHOT:
        if snapshot:
            advice = ". Use method Push." if host.in_pod else ", or use method Push."
            raise Refused(Reason.METHOD_UNSUPPORTED, f"VM {vm}: {snapshot}{advice}")
        return Method.SNAPSHOT, "asked for"
    if not push and not limit:
        return Method.PUSH, f"{daemon} supports full push"
    if not snapshot:
        return Method.SNAPSHOT, push or limit
    raise Refused(Reason.METHOD_UNSUPPORTED, f"VM {vm}: {push or limit}; {snapshot}.")


def disk_obstacle(disk: DiskFacts) -> str:  # noqa: PLR0911 - a table of reasons
    """Return why a disk is not part of a backup, empty when it is."""
    if not disk.source:
        return "the drive is empty" if disk.device in ("cdrom", "floppy") else "the disk has no source"
    if disk.device in ("cdrom", "floppy"):
        return f"removable medium ({disk.device})"
    if disk.readonly:
        return "the disk is read-only"
    if disk.transient:
        return "the disk is transient: libvirt drops its content when the VM stops"
    if disk.encrypted:
        return "the image is encrypted by libvirt, and a copy through QEMU would be in the clear"
    if not PLAIN_TARGET.fullmatch(disk.target):
        return "its target name cannot be part of a file name; letters, digits, '_' and '-' can"
    if disk.device != "disk" or disk.kind not in ("file", "block"):
        return f"a {disk.kind or disk.device} disk cannot be backed up; files and block devices can"
    if disk.format not in ("qcow2", "raw"):
        return f"image format {disk.format or 'unknown'} cannot be backed up; qcow2 and raw can"
    return ""


def is_left_out(disk: DiskFacts) -> bool:
    """Return whether a disk holds nothing that a backup of the VM must have: left out without being asked."""
    return not disk.source or disk.readonly or disk.transient or disk.device in ("cdrom", "floppy")
