"""Other users of the same libvirt: they do what they like with a VM, and clean up after themselves."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt

from soak.guests import MIB, Guest

SLOW_BYTES_PER_SECOND = MIB
INSIST_SECONDS = 90.0
REST_SECONDS = 0.3
Say = Callable[[str], None]


@contextmanager
def block_job(guest: Guest, directory: Path, say: Say) -> Iterator[None]:
    """Somebody copies a disk elsewhere, slowly, and gives it up."""
    copy = directory / f"stranger-{guest.name}.qcow2"
    xml = f"<disk type='file'><source file='{copy}'/><driver type='qcow2'/></disk>"
    bandwidth = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: SLOW_BYTES_PER_SECOND}
    flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    began = _try(guest, lambda domain: domain.blockCopy("vda", xml, bandwidth, flags), say, "block copy")
    yield
    if began:
        _insist(lambda: guest.call(_copy_is_over))
    copy.unlink(missing_ok=True)


@contextmanager
def backup_job(guest: Guest, directory: Path, say: Say) -> Iterator[None]:
    """Somebody makes a backup with virsh, and stops it."""
    target = directory / f"stranger-{guest.name}.backup"
    others = "".join(f"<disk name='{name}' backup='no'/>" for name in guest.targets if name != "vda")
    xml = (
        f"<domainbackup><disks><disk name='vda' type='file'><driver type='qcow2'/><target file='{target}'/></disk>"
        f"{others}</disks></domainbackup>"
    )
    began = _try(guest, lambda domain: domain.backupBegin(xml, None), say, "backup")
    if began:
        with suppress(libvirt.libvirtError):
            guest.call(lambda domain: domain.blockJobSetSpeed("vda", 1))
    yield
    if began:
        _insist(lambda: guest.call(lambda domain: _backup_is_over(domain, target)))
    target.unlink(missing_ok=True)


@contextmanager
def snapshot(guest: Guest, directory: Path, say: Say) -> Iterator[None]:
    """Somebody takes an external snapshot with metadata, and later merges it and forgets it."""
    overlay = directory / f"stranger-{guest.name}.snapshot"
    others = "".join(f"<disk name='{name}' snapshot='no'/>" for name in guest.targets if name != "vda")
    xml = (
        "<domainsnapshot><name>stranger</name><disks><disk name='vda' snapshot='external'>"
        f"<source file='{overlay}'/></disk>{others}</disks></domainsnapshot>"
    )
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    began = _try(guest, lambda domain: domain.snapshotCreateXML(xml, flags), say, "snapshot")
    guest.strange_snapshots += began
    yield
    if began:
        _insist(lambda: guest.call(lambda domain: _snapshot_is_merged(domain, str(overlay))))
        say(f"the stranger's snapshot of {guest.name} is merged")
    overlay.unlink(missing_ok=True)


def _try(guest: Guest, act: Callable[[libvirt.virDomain], object], say: Say, what: str) -> bool:
    try:
        guest.call(act)
    except libvirt.libvirtError as error:
        say(f"stranger's {what} of {guest.name} refused: {error}")
        return False
    return True


def _insist(test: Callable[[], bool]) -> None:
    """Try again until it is so. Raises TimeoutError."""
    deadline = time.monotonic() + INSIST_SECONDS
    last = ""
    while True:
        try:
            if test():
                return
        except libvirt.libvirtError as error:
            last = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"a stranger could not clean up in {INSIST_SECONDS:.0f} s: {last}")
        time.sleep(REST_SECONDS)


def _copy_is_over(domain: libvirt.virDomain) -> bool:
    if not domain.isActive() or not domain.blockJobInfo("vda"):
        return True
    if domain.blockJobInfo("vda")["type"] != libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY:
        return True  # not the stranger's
    domain.blockJobAbort("vda")
    return False


def _backup_is_over(domain: libvirt.virDomain, target: Path) -> bool:
    try:
        ours = str(target) in domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID):
            return True
        raise
    if ours:
        domain.abortJob()
    return not ours


def _snapshot_is_merged(domain: libvirt.virDomain, overlay: str) -> bool:
    if not domain.isActive():
        domain.create()
        return False
    disk = _first_disk(domain)
    if disk is None or overlay not in ET.tostring(disk, encoding="unicode"):
        _forget_snapshot(domain)
        return True
    source, mirror = disk.find("source"), disk.find("mirror")
    if source is None or source.get("file") != overlay:
        return False  # somebody has put a layer on top: it must go first
    if mirror is None:
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
        domain.blockCommit("vda", None, None, 0, flags)
    elif mirror.get("ready") == "yes":
        domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    return False


def _first_disk(domain: libvirt.virDomain) -> ET.Element | None:
    description = ET.fromstring(domain.XMLDesc())  # noqa: S314 - from our own daemon
    disks = (disk for disk in description.iterfind("devices/disk") if disk.find("target[@dev='vda']") is not None)
    return next(disks, None)


def _forget_snapshot(domain: libvirt.virDomain) -> None:
    with suppress(libvirt.libvirtError):
        found = domain.snapshotLookupByName("stranger")
        found.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
