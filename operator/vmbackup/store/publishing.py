"""Publishing: the manifest, the digests, everything on disk, and one rename."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.manifest import Manifest, ManifestDisk
from vmbackup.errors import Failed
from vmbackup.store.paths import FILE_MODE, below, enter, open_file, write_file
from vmbackup.store.sets import NVRAM_FILE, OWNER_FILE, owner_uid


@dataclass(frozen=True)
class Publisher:
    """Who publishes: goes into the manifest."""

    node: str
    version: str
    now: Callable[[], float]


def publish_set(location: int, run: Run, point_in_time: float, publisher: Publisher) -> None:
    """Make the finished working directory the set. Done once, or twice after a crash: the same comes of it.

    Raises: Failed: an image is missing, or the final name is taken. OSError: the file system refused.
    """
    parent, _, final = run.set_path.rpartition("/")
    working = run.partial_path.rpartition("/")[2]
    with below(location, parent) as directory:
        if _taken(directory, final, run):
            os.fsync(directory)  # a crash may have come between rename and fsync
            return
        partial = _enter_working(directory, working, run)
        try:
            _complete(partial, run, point_in_time, publisher)
        finally:
            os.close(partial)
        os.rename(working, final, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def _taken(directory: int, final: str, run: Run) -> bool:
    """Return whether the set is published already. Raises: Failed: something else has its name."""
    try:
        os.stat(final, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    published = enter(directory, final, run.set_path)
    try:
        if owner_uid(published) == run.uid:
            return True
    finally:
        os.close(published)
    raise _failed(run, f"{run.location_path}/{run.set_path} exists and is not of this backup; it was left alone")


def _enter_working(directory: int, working: str, run: Run) -> int:
    try:
        partial = enter(directory, working, run.partial_path)
    except FileNotFoundError:
        raise _failed(run, f"{run.location_path}/{run.partial_path} is gone; who removed it?") from None
    if owner_uid(partial) == run.uid:
        return partial
    os.close(partial)
    raise _failed(run, f"{run.location_path}/{run.partial_path} does not belong to this backup")


def _complete(partial: int, run: Run, point_in_time: float, publisher: Publisher) -> None:
    for disk in run.disks:
        _seal(partial, run, disk.image)
    write_file(partial, names.MANIFEST_FILE, _manifest(run, point_in_time, publisher))
    if all(disk.sha256 for disk in run.disks):
        write_file(partial, names.CHECKSUMS_FILE, "".join(_checksums(partial, run)).encode())
    with suppress(FileNotFoundError):
        os.unlink(OWNER_FILE, dir_fd=partial)  # from here on the manifest says whose it is
    os.fsync(partial)


def _seal(partial: int, run: Run, image: str) -> None:
    """Put an image on disk, and take it out of QEMU's hands: libvirt gave the push target to QEMU's user."""
    try:
        file = open_file(partial, image)
    except FileNotFoundError:
        raise _failed(run, f"the image {image} is gone from {run.partial_path}; who removed it?") from None
    try:
        os.fchmod(file, FILE_MODE)
        if os.fstat(file).st_uid != os.geteuid():
            with suppress(PermissionError):  # an NFS server that squashes root keeps its own owner
                os.fchown(file, os.geteuid(), os.getegid())
        os.fsync(file)
    finally:
        os.close(file)


def _manifest(run: Run, point_in_time: float, publisher: Publisher) -> bytes:
    manifest = Manifest(
        backup_name=run.name,
        backup_namespace=run.namespace,
        backup_uid=run.uid,
        vm=run.vm,
        domain=run.domain,
        domain_uuid=run.domain_uuid,
        node=publisher.node,
        method=run.method,
        method_reason=run.method_reason,
        quiesced=run.quiesced is not None and run.quiesced.done,
        point_in_time=_rfc3339(point_in_time),
        started=_rfc3339(run.started_at),
        published=_rfc3339(publisher.now()),
        verified=run.spec.verify,
        libvirt_version=run.libvirt_version,
        hypervisor_version=run.hypervisor_version,
        operator_version=publisher.version,
        disks=tuple(
            ManifestDisk(
                target=disk.target,
                file=disk.image,
                format=disk.image_format,
                virtual_bytes=disk.virtual_bytes,
                stored_bytes=disk.stored_bytes,
                sha256=disk.sha256,
                source=disk.source,
            )
            for disk in run.disks
        ),
        skipped={disk.target: disk.reason for disk in run.skipped},
    )
    return manifest.model_dump_json(by_alias=True, indent=2).encode() + b"\n"


def _checksums(partial: int, run: Run) -> Iterator[str]:
    """Yield the lines of SHA256SUMS: images by the digest that the verification took, small files by their content."""
    for disk in run.disks:
        yield f"{disk.sha256}  {disk.image}\n"
    for name in (names.DOMAIN_FILE, names.MANIFEST_FILE, NVRAM_FILE):
        with suppress(FileNotFoundError):
            file = open_file(partial, name)
            with os.fdopen(file, "rb") as stream:
                yield f"{hashlib.sha256(stream.read()).hexdigest()}  {name}\n"


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _failed(run: Run, words: str) -> Failed:
    return Failed(Reason.PUBLISH_FAILED, f"VM {run.domain}: {words}")
