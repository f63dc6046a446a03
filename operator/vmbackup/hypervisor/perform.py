"""Steps that act on disks: each a few libvirt calls, after a look whether the VM is as the step expects it."""

import posixpath
from collections.abc import Iterable, Mapping

import libvirt

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.core.facts import DiskFacts
from vmbackup.core.steps import BeginPush, Pivot, StartCommit, TakeSnapshot
from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.hypervisor.failures import attempt, is_code
from vmbackup.hypervisor.observe import read_live, running_backup, running_operation
from vmbackup.hypervisor.request_xml import backup_xml, snapshot_xml

FIRST_FULL_PUSH = 7_002_000  # libvirt 7.2.0; before, backupBegin wants QEMU features that no release had
NOT_SEEN = "No such file or directory"
SNAPSHOT_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
)
# SHALLOW makes libvirt check once more that the base is right below the overlay. Without a base it would commit to
# the bottom of the chain: into a golden image that other VMs share.
COMMIT_FLAGS = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW


def drain_statistics(domain: libvirt.virDomain) -> None:
    """Read the completed statistics without the flag that keeps them."""
    with attempt(f"VM {domain.name()}: reading away old job statistics"):
        domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)


def begin_push(domain: libvirt.virDomain, run: Run, step: BeginPush) -> None:
    """Raises: Refused: the daemon is too old, or the job runs already. NotYet: a stranger's job runs. Failed."""
    what = f"VM {run.domain}: push backup of {_listed(step.targets)}"
    with attempt(what, Reason.BACKUP_JOB_FAILED):
        version = domain.connect().getLibVersion()
        if version < FIRST_FULL_PUSH:
            raise Refused(
                Reason.METHOD_UNSUPPORTED,
                f"{what}: libvirt {version // 1_000_000}.{version // 1000 % 1000}.{version % 1000} has no full push "
                "backup; it came with 7.2.0. Use method Snapshot.",
            )
        _check_idle(domain, run, what)
        xml = backup_xml(read_live(domain).disks, dict(step.targets))
        try:
            domain.backupBegin(xml, None, _flags(run))
        except libvirt.libvirtError as error:
            if NOT_SEEN in (error.get_error_message() or ""):
                raise _not_seen(what, error) from error
            raise


def _flags(run: Run) -> int:
    """In a launcher pod the images are there already: its daemon may neither make nor own files outside of it."""
    return int(libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL) if run.launcher is not None else 0


def _not_seen(what: str, error: libvirt.libvirtError) -> Failed:
    return Failed(
        Reason.BACKUP_JOB_FAILED,
        f"{what}: libvirt says: {error.get_error_message()}. The directory of the location must exist where QEMU runs; "
        "one that was mounted after the VM or its pod was started is seen only where / is a shared mount "
        "(`mount --make-rshared /`), or after their next start.",
        heals=True,
    )


def abort_job(domain: libvirt.virDomain, run: Run) -> None:
    """Abort the running backup when it is ours: when it writes to the directory of this attempt."""
    with attempt(f"VM {run.domain}: aborting the push backup"):
        targets = running_backup(domain)
        if not targets or not is_ours(run, targets):
            return
        try:
            domain.abortJob()
        except libvirt.libvirtError as error:
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):  # it ended meanwhile
                raise


def is_ours(run: Run, targets: dict[str, str]) -> bool:
    """Tell whether a backup job writes to our attempt's directory: libvirt's jobs have no owner, their targets do."""
    return all(posixpath.dirname(path) == run.target_directory for path in targets.values())


def take_snapshot(domain: libvirt.virDomain, run: Run, step: TakeSnapshot) -> None:
    """Raises: NotYet: a stranger's job runs. Failed: no disk was changed."""
    what = f"VM {run.domain}: snapshot of {_listed(step.overlays)}"
    with attempt(what, Reason.SNAPSHOT_FAILED):
        _check_idle(domain, run, what)
        disks = read_live(domain).disks
        _check_sources(run, disks, dict(step.overlays), what)
        xml = snapshot_xml(disks, dict(step.overlays))
        domain.snapshotCreateXML(xml, SNAPSHOT_FLAGS)


def start_commit(domain: libvirt.virDomain, run: Run, step: StartCommit) -> None:
    """Raises: Failed: the disk is not on our overlay right above the base, or libvirt refused."""
    what = f"VM {run.domain}, disk {step.target}: block-commit into {step.base}"
    with attempt(what, Reason.COMMIT_FAILED):
        disk = _on_our_overlay(domain, run, step.target, what)
        below = disk.backing[0].path if disk.backing else "nothing"
        if below != step.base:
            raise Failed(
                Reason.COMMIT_FAILED,
                f"{what}: not done, since below the overlay {disk.source} lies {below}. Somebody changed the chain; "
                "see `virsh domblklist` and `qemu-img info -U --backing-chain`.",
            )
        domain.blockCommit(step.target, step.base, None, 0, COMMIT_FLAGS)


def pivot(domain: libvirt.virDomain, run: Run, step: Pivot) -> None:
    """Raises: Failed: no commit of ours runs, or it is not ready (`heals`)."""
    what = f"VM {run.domain}, disk {step.target}: pivot to its base"
    with attempt(what, Reason.COMMIT_FAILED):
        disk = _on_our_overlay(domain, run, step.target, what)
        base = disk.backing[0].path if disk.backing else ""
        if disk.job is None or disk.job.kind != "active-commit" or disk.job.mirror_path != base:
            raise Failed(Reason.COMMIT_FAILED, f"{what}: not done, no commit from {disk.source} to {base} runs.")
        domain.blockJobAbort(step.target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def resume_guest(domain: libvirt.virDomain, run: Run) -> None:
    """Resume a guest that an I/O error has paused; one that runs, or was paused by somebody, is left as it is."""
    with attempt(f"VM {run.domain}: resuming it after an I/O error"):
        if domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]:
            domain.resume()


def _check_idle(domain: libvirt.virDomain, run: Run, what: str) -> None:
    """See that no job runs. libvirt itself would wait 30 seconds for the job lock before it refuses.

    Raises: Refused: our push job runs already. NotYet: a stranger's job runs.
    """
    operation = running_operation(domain)
    if not operation:
        return
    targets = running_backup(domain) if operation == "backup" else None
    if targets and is_ours(run, targets):
        raise Refused(Reason.BACKUP_JOB_FAILED, f"{what}: not begun, our own push job runs already.")
    raise NotYet(Reason.FOREIGN_JOB, f"{what}: not begun, a {operation} job runs that is not ours.")


def _check_sources(run: Run, disks: Iterable[DiskFacts], overlays: Mapping[str, str], what: str) -> None:
    """See that our overlays come right above the recorded bases: somebody may have moved a disk since the plan.

    Raises: Failed: they would not (`heals`).
    """
    for disk in disks:
        if disk.target in overlays and disk.source != run.disk(disk.target).source:
            raise Failed(
                Reason.SNAPSHOT_FAILED,
                f"{what}: not taken, disk {disk.target} is on {disk.source} now, not on "
                f"{run.disk(disk.target).source} any more. Somebody changed its chain; see `virsh domblklist`.",
                heals=True,
            )


def _on_our_overlay(domain: libvirt.virDomain, run: Run, target: str, what: str) -> DiskFacts:
    disk = next((disk for disk in read_live(domain).disks if disk.target == target), None)
    if disk is None:
        raise Failed(Reason.DISK_NOT_FOUND, f"{what}: not done, the VM has no disk {target} any more.")
    if names.overlay_uid(posixpath.basename(disk.source)) != run.uid:
        raise Failed(Reason.COMMIT_FAILED, f"{what}: not done, {disk.source} is not an overlay of this backup.")
    return disk


def _listed(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(target for target, _ in pairs)
