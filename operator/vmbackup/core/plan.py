"""From a request and the facts to a `Run`: which disks, which method, which paths. Touches nothing."""

import posixpath
from dataclasses import dataclass
from datetime import UTC, datetime

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Launcher, Run, RunDisk, SkippedDisk
from vmbackup.api.vmbackup import Method, VMBackupSpec
from vmbackup.core.facts import DiskFacts, DomainFacts, HostFacts
from vmbackup.core.method import choose, disk_obstacle, is_left_out, version
from vmbackup.errors import NotYet, Refused


@dataclass(frozen=True)
class Request:
    """What is asked for, with all that the user's resource does not say: the domain, the paths, the attempt."""

    uid: str
    namespace: str
    name: str
    spec: VMBackupSpec
    domain: str
    location_path: str
    overlay_directory: str
    started_at: float
    launcher: Launcher | None = None
    attempt: int = 1
    min_free: str = "5%"
    stall_seconds: int = 300


def plan(request: Request, domain: DomainFacts, host: HostFacts, now: float) -> Run:
    """Return the run that will serve the request.

    Raises:
        Refused: it cannot be served as it stands. Nothing was touched.
        NotYet: the VM is off, or somebody else works on it.
    """
    _check_vm(request, domain)
    chosen, skipped = select_disks(request.spec, domain)
    method, reason = choose(request.spec, host, domain.name, chosen)
    _check_strangers(domain, method)
    return Run(
        uid=request.uid,
        namespace=request.namespace,
        name=request.name,
        attempt=request.attempt,
        domain=domain.name,
        domain_uuid=domain.uuid,
        vm=request.spec.source.name,
        launcher=request.launcher,
        instance=domain.instance,
        paused=domain.state == "paused",
        spec=request.spec,
        location_path=request.location_path,
        overlay_directory=request.overlay_directory,
        min_free=request.min_free,
        stall_seconds=request.stall_seconds,
        set_path=set_path(request, now),
        method=method,
        method_reason=reason,
        libvirt_version=version(host.libvirt_version),
        hypervisor_version=version(host.hypervisor_version),
        disks=tuple(_run_disk(request, disk, method) for disk in chosen),
        skipped=skipped,
        started_at=request.started_at,
        attempt_started_at=now,
    )


def plan_again(run: Run, domain: DomainFacts, host: HostFacts, now: float) -> Run:
    """Return the run of the next attempt, planned afresh from what is seen now. Raises: as `plan`."""
    request = Request(
        uid=run.uid,
        namespace=run.namespace,
        name=run.name,
        spec=run.spec,
        domain=run.domain,
        location_path=run.location_path,
        overlay_directory=run.overlay_directory,
        started_at=run.started_at,
        launcher=run.launcher,
        attempt=run.attempt,
        min_free=run.min_free,
        stall_seconds=run.stall_seconds,
    )
    return plan(request, domain, host, now).model_copy(update={"left": run.left})


def set_path(request: Request, now: float) -> str:
    """Return `<namespace>/<vm>/<utc time>-<backup>-<uid8>`: every part was checked by the schema."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{request.namespace}/{request.spec.source.name}/{moment}-{request.name}-{request.uid[:8]}"


def select_disks(spec: VMBackupSpec, domain: DomainFacts) -> tuple[tuple[DiskFacts, ...], tuple[SkippedDisk, ...]]:
    """Return the disks to back up in the VM's order, and the others with the reason.

    Raises: Refused: a named disk does not exist or cannot be backed up, or no disk is left.
    """
    known = {disk.target for disk in domain.disks}
    unknown = [name for name in (*spec.disks.include, *spec.disks.exclude) if name not in known]
    if unknown:
        raise Refused(
            Reason.DISK_NOT_FOUND,
            f"VM {domain.name} has no disk {unknown[0]}; it has {', '.join(sorted(known)) or 'none'}.",
        )
    chosen: list[DiskFacts] = []
    skipped: list[SkippedDisk] = []
    for disk in domain.disks:
        reason = _skip_reason(spec, domain, disk)
        if reason:
            skipped.append(SkippedDisk(target=disk.target, reason=reason))
        else:
            chosen.append(disk)
    if not chosen:
        why = "; ".join(f"{disk.target}: {disk.reason}" for disk in skipped) or "it has no disks"
        raise Refused(Reason.NO_DISKS, f"VM {domain.name}: no disk is left to back up ({why}).")
    return tuple(chosen), tuple(skipped)


def _skip_reason(spec: VMBackupSpec, domain: DomainFacts, disk: DiskFacts) -> str:
    """Raises: Refused: the disk must be in the set but cannot be: a set that misses a disk is no backup."""
    if disk.target in spec.disks.exclude:
        return "excluded"
    if spec.disks.include and disk.target not in spec.disks.include:
        return "not included"
    obstacle = disk_obstacle(disk)
    named = disk.target in spec.disks.include
    if obstacle and (named or not is_left_out(disk)):
        advice = "Leave it out of spec.disks.include." if named else f"Exclude it: spec.disks.exclude: [{disk.target}]."
        raise Refused(Reason.DISK_UNSUPPORTED, f"VM {domain.name}, disk {disk.target}: {obstacle}. {advice}")
    return obstacle


def _check_vm(request: Request, domain: DomainFacts) -> None:
    if domain.state == "absent" and request.launcher is not None:
        raise Refused(
            Reason.VM_NOT_FOUND,
            f"VM {domain.name} is not in its launcher pod {request.launcher.pod_uid} on this node any more: the pod "
            "was deleted or restarted, or the VM has moved to another node. Make a new VMBackup.",
        )
    if domain.state == "absent":
        raise Refused(Reason.VM_NOT_FOUND, f"this node has no VM {request.spec.source.name}.")
    if not domain.alive:
        raise NotYet(Reason.VM_NOT_RUNNING, f"VM {domain.name} is not running; start it, the backup waits.")


def _check_strangers(domain: DomainFacts, method: Method) -> None:
    """Raises: NotYet: somebody else's job, block job or snapshot is on the VM; it is left alone."""
    if domain.job is not None:
        raise NotYet(Reason.FOREIGN_JOB, f"VM {domain.name}: a {domain.job.operation} job runs that is not ours.")
    for disk in domain.disks:
        if disk.job is not None:
            raise NotYet(
                Reason.FOREIGN_JOB,
                f"VM {domain.name}, disk {disk.target}: a {disk.job.kind} block job runs that is not ours.",
            )
        if names.overlay_uid(posixpath.basename(disk.source)):
            raise NotYet(
                Reason.FOREIGN_SNAPSHOT,
                f"VM {domain.name}, disk {disk.target} is still on the overlay {disk.source} of another backup.",
            )
    if domain.snapshots and method is Method.SNAPSHOT:
        raise NotYet(
            Reason.FOREIGN_SNAPSHOT,
            f"VM {domain.name} has the external snapshot {domain.snapshots[0]}; one of ours would disturb it.",
        )


def _run_disk(request: Request, disk: DiskFacts, method: Method) -> RunDisk:
    # libvirt writes qcow2 in push mode: it stays sparse, a raw target would be written in full.
    # A chain or a block device is flattened into qcow2; a single file keeps its format, so that it can be cloned.
    single_file = disk.kind == "file" and not disk.backing
    image_format = disk.format if method is Method.SNAPSHOT and single_file else "qcow2"
    directory = posixpath.dirname(disk.source) if disk.kind == "file" else request.overlay_directory
    overlay = f"{directory}/{names.overlay_name(request.uid, request.attempt, disk.target)}"
    assert disk.kind in ("file", "block"), "disk_obstacle() lets no other kind through"
    return RunDisk(
        target=disk.target,
        source=disk.source,
        source_kind="file" if disk.kind == "file" else "block",
        source_format=disk.format,
        backing=tuple(image.path for image in disk.backing),
        inactive_source=disk.inactive_source,
        virtual_bytes=disk.virtual_bytes,
        allocated_bytes=min(disk.allocated_bytes, disk.virtual_bytes),
        image=f"{disk.target}.{image_format}",
        image_format=image_format,
        overlay=overlay if method is Method.SNAPSHOT else "",
    )
