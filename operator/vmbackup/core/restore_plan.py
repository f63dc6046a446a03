"""From a request, the set's manifest and the facts to a `RestoreRun`. Touches nothing."""

import posixpath
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.manifest import Manifest, ManifestDisk
from vmbackup.api.restore import RestoreKind, kind_of
from vmbackup.api.restore_journal import NEW_VM_KINDS, RestoreDisk, RestoreRun
from vmbackup.api.restore_spec import ImageFormat, MACAddresses, VMRestoreSpec
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.core.kstatus import epoch
from vmbackup.core.ownership import Claim, hosted, owner_of
from vmbackup.errors import NotYet, Refused

Format = Literal["qcow2", "raw"]


@dataclass(frozen=True)
class SetFacts:
    """The set that was found. `path`: relative to the location. `allocated_bytes`: by target, of images that exist."""

    path: str
    manifest: Manifest
    allocated_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RestoreRequest:
    """What is asked for, with all that the user's resource does not say."""

    uid: str
    namespace: str
    name: str
    spec: VMRestoreSpec
    location: str
    location_path: str
    images_path: str
    started_at: float
    node: str = ""
    min_free: str = "5%"
    default_namespace: str = ""


def choose_set(sets: Iterable[SetFacts], at_or_before: str | None, vm: str) -> SetFacts:
    """Return the newest set, or the newest whose point in time is not after the moment.

    Raises: Refused: there is none.
    """
    ordered = sorted(sets, key=lambda one: (epoch(one.manifest.point_in_time), one.path), reverse=True)
    if not ordered:
        raise Refused(Reason.SET_NOT_FOUND, f"the location has no published set of VM {vm} of this namespace.")
    if at_or_before is None:
        return ordered[0]
    moment = epoch(at_or_before)
    chosen = next((one for one in ordered if epoch(one.manifest.point_in_time) <= moment), None)
    if chosen is None:
        oldest = ordered[-1].manifest.point_in_time
        raise Refused(
            Reason.SET_NOT_FOUND, f"VM {vm} has no set at or before {at_or_before}; the oldest shows {oldest}."
        )
    return chosen


def plan_restore(
    request: RestoreRequest, found: SetFacts, claims: Sequence[Claim], domain: DomainFacts | None
) -> RestoreRun:
    """Return the run that will serve the request. `domain`: for inPlace, the VM whose disks are replaced.

    Raises: Refused: it cannot be served as it stands; nothing was touched.
    """
    kind = kind_of(request.spec)
    chosen = _disks(request, found)
    name, domain_uuid = "", ""
    if kind in NEW_VM_KINDS and not _scrub(request.spec):
        name, domain_uuid = _new_name(request, found.manifest, claims), str(uuid.uuid4())
    elif kind is RestoreKind.IN_PLACE:
        assert domain is not None, "the caller has looked"
        _check_off(request, found, domain)
        name, domain_uuid = domain.name, domain.uuid
    run = RestoreRun(
        uid=request.uid,
        namespace=request.namespace,
        name=request.name,
        node=request.node,
        spec=request.spec,
        kind=kind,
        vm=found.manifest.vm,
        location=request.location,
        location_path=request.location_path,
        set_path=found.path,
        backup_uid=found.manifest.backup_uid,
        point_in_time=found.manifest.point_in_time,
        images_path=request.images_path,
        min_free=request.min_free,
        domain=name,
        domain_uuid=domain_uuid,
        disks=(),
        started_at=request.started_at,
    )
    return run.model_copy(update={"disks": tuple(_restore_disk(run, disk, found, domain) for disk in chosen)})


def _scrub(spec: VMRestoreSpec) -> bool:
    return spec.target.proof is not None and spec.target.proof.kind == "Scrub"


def _disks(request: RestoreRequest, found: SetFacts) -> tuple[ManifestDisk, ...]:
    """Return the disks to restore. Raises: Refused: one is not in the set, or its image is missing."""
    target = request.spec.target
    include = target.disks.include if target.disks else target.in_place.include if target.in_place else ()
    known = {disk.target: disk for disk in found.manifest.disks}
    for wanted in include:
        if wanted not in known:
            raise Refused(
                Reason.DISK_NOT_FOUND, f"set {found.path} has no disk {wanted}; it has {', '.join(sorted(known))}."
            )
    chosen = tuple(disk for disk in found.manifest.disks if not include or disk.target in include)
    if not chosen:
        raise Refused(Reason.SET_BROKEN, f"set {found.path} names no disk in its manifest.")
    for disk in chosen:
        if disk.target not in found.allocated_bytes:
            raise Refused(Reason.SET_BROKEN, f"set {found.path}: the image {disk.file} of {disk.target} is missing.")
        if disk.format not in ("qcow2", "raw"):
            raise Refused(Reason.SET_BROKEN, f"set {found.path}: {disk.file} has the unknown format {disk.format}.")
    return chosen


def _new_name(request: RestoreRequest, manifest: Manifest, claims: Sequence[Claim]) -> str:
    """Return the libvirt name of the new domain: one by which it belongs to this namespace and to no other.

    Raises: Refused: the name is taken.
    """
    target = request.spec.target
    chosen = target.new_domain or target.instant
    if chosen is None:
        return f"{request.namespace}_proof-{request.uid[:8]}"
    for vm in hosted(claims, request.default_namespace).vms:
        if (vm.namespace, vm.name) == (request.namespace, chosen.name):
            raise Refused(
                Reason.VM_EXISTS, f"there is a VM {chosen.name} in this namespace already (domain {vm.domain})."
            )
    name = f"{request.namespace}_{chosen.name}"
    bare = manifest.domain == manifest.vm and owner_of(chosen.name, None, request.default_namespace)
    if bare == (request.namespace, chosen.name):
        name = chosen.name
    if any(claim.domain == name for claim in claims):
        raise Refused(Reason.VM_EXISTS, f"libvirt has a domain {name} already.")
    if chosen.mac_addresses is MACAddresses.KEEP and any(claim.uuid == manifest.domain_uuid for claim in claims):
        raise Refused(
            Reason.VM_EXISTS,
            f"VM {manifest.vm} is still defined here: two VMs with the same MAC addresses would disturb each other. "
            "Use macAddresses: Regenerate, or undefine the first VM.",
        )
    return name


def _check_off(request: RestoreRequest, found: SetFacts, domain: DomainFacts) -> None:
    if domain.state == "absent":
        raise Refused(Reason.VM_NOT_FOUND, f"this node has no VM {found.manifest.vm}: restore it with newDomain.")
    if domain.alive:
        raise Refused(
            Reason.VM_RUNNING, f"VM {domain.name} runs: its disks can be replaced only while it is off. Shut it down."
        )
    if domain.snapshots:
        raise Refused(
            Reason.FOREIGN_SNAPSHOT,
            f"VM {domain.name} has the external snapshot {domain.snapshots[0]}, which would not fit: delete it.",
        )


def _restore_disk(run: RestoreRun, disk: ManifestDisk, found: SetFacts, domain: DomainFacts | None) -> RestoreDisk:
    image_format: Format = "qcow2" if disk.format == "qcow2" else "raw"
    file, format_ = _file(run, disk, image_format, domain)
    return RestoreDisk(
        target=disk.target,
        image=disk.file,
        image_format=image_format,
        virtual_bytes=disk.virtual_bytes,
        allocated_bytes=found.allocated_bytes[disk.target],
        sha256=disk.sha256,
        file=file,
        format=format_,
    )


def _file(run: RestoreRun, disk: ManifestDisk, image_format: Format, domain: DomainFacts | None) -> tuple[str, Format]:
    """Return path and format of the restored image."""
    format_: Format = image_format
    match run.kind:
        case RestoreKind.IN_PLACE:
            assert domain is not None, "the caller has looked"
            return _own_file(run, disk.target, domain.disk(disk.target))
        case RestoreKind.INSTANT | RestoreKind.PROOF:
            format_ = "qcow2"  # an overlay
        case RestoreKind.DISKS if run.spec.target.disks and run.spec.target.disks.format is not ImageFormat.KEEP:
            format_ = "raw" if run.spec.target.disks.format is ImageFormat.RAW else "qcow2"
        case _:
            pass
    directory = run.partial_path if run.kind is RestoreKind.PROOF else run.directory
    return f"{run.images_path}/{directory}/{disk.target}.{format_}", format_


def _own_file(run: RestoreRun, target: str, disk: DiskFacts | None) -> tuple[str, Format]:
    """Return the file of the VM's own disk. Raises: Refused: it cannot be replaced."""
    if disk is None:
        raise Refused(
            Reason.DISK_NOT_FOUND, f"VM {run.domain} has no disk {target} now: leave it out with inPlace.include."
        )
    obstacle = ""
    if disk.kind != "file" or not disk.source.startswith("/"):
        obstacle = f"it is no file but {disk.kind or 'an empty drive'} {disk.source}"
    elif disk.format not in ("qcow2", "raw"):
        obstacle = f"its format is {disk.format}"
    elif disk.shareable or disk.encrypted:
        obstacle = "it is shared with other VMs" if disk.shareable else "it is encrypted"
    elif posixpath.normpath(disk.source).startswith(f"{posixpath.normpath(run.location_path)}/"):
        obstacle = f"it lies in the location itself ({disk.source})"
    if obstacle:
        raise Refused(
            Reason.TARGET_UNSUPPORTED,
            f"VM {run.domain}, disk {target}: cannot be replaced, {obstacle}. Restore it with disks and put it there.",
        )
    if names.overlay_uid(posixpath.basename(disk.source)):
        raise NotYet(
            Reason.FOREIGN_SNAPSHOT, f"VM {run.domain}, disk {target} is on {disk.source}, the overlay of a backup."
        )
    return disk.source, "qcow2" if disk.format == "qcow2" else "raw"
