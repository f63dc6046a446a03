"""The directory of a restore's images: made beside its final name, filled, renamed, or removed. It carries our UID."""

import logging
import os
from contextlib import suppress

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import LIVE_KINDS, RestoreDisk, RestoreRun
from vmbackup.core.virtual_machine import virtual_machine
from vmbackup.errors import Failed, Refused
from vmbackup.store.children import Limits, run_child
from vmbackup.store.copying import allocated_bytes
from vmbackup.store.finding import read_manifest
from vmbackup.store.paths import FILE_MODE, below, enter, open_file, write_file
from vmbackup.store.qcow2 import read_header
from vmbackup.store.sets import NVRAM_BYTES_MAX, NVRAM_FILE, OWNER_FILE, empty_directory, owner_uid
from vmbackup.store.verifying import SECTOR_BYTES
from vmbackup.store.works import Result, Task
from vmbackup.units import human_bytes

SERIAL_FILE = "serial.log"
VIRTUAL_MACHINE_FILE = "virtualmachine.yaml"
_log = logging.getLogger(__name__)


def check_set(directory: int, run: RestoreRun) -> None:
    """Look whether an open set is the one that was planned, and its images what its manifest says.

    Nothing that an image names is opened. Raises: Refused: it must not be used.
    """
    manifest = read_manifest(directory)
    if (manifest.backup_uid, manifest.backup_namespace) != (run.backup_uid, run.namespace):
        raise _broken(run, "another set has its name now")
    for disk in run.disks:
        try:
            image = open_file(directory, disk.image)
        except FileNotFoundError:
            raise _broken(run, f"the image {disk.image} is missing") from None
        try:
            _check_header(run, disk, image)
        finally:
            os.close(image)


def _check_header(run: RestoreRun, disk: RestoreDisk, image: int) -> None:
    virtual_bytes = -(-os.fstat(image).st_size // SECTOR_BYTES) * SECTOR_BYTES
    if disk.image_format == "qcow2":
        try:
            header = read_header(image)
        except ValueError as error:
            raise _broken(run, f"{disk.image}: {error}") from error
        if header.backing_file or header.has_data_file or header.is_corrupt:
            raise _broken(run, f"{disk.image} refers to another file, or is marked as corrupt")
        virtual_bytes = header.virtual_bytes
    if virtual_bytes != disk.virtual_bytes:
        sizes = f"{virtual_bytes} bytes, its manifest says {disk.virtual_bytes}"
        raise _broken(run, f"{disk.image} shows {sizes}")


def make_directory(images: int, run: RestoreRun, set_directory: int) -> None:
    """Make the working directory; one that an earlier crash left is taken up again.

    Raises: Refused: the final name is taken. Failed: the working one is not ours. OSError.
    """
    if directory_state(images, run, run.directory) == "foreign":
        path = f"{run.images_path}/{run.directory}"
        raise Refused(Reason.TARGET_EXISTS, f"{path} exists and is not of this restore; it was left alone.")
    with below(images, run.partial_path, make=True) as partial:
        owner = owner_uid(partial)
        if owner != run.uid and (owner or os.listdir(partial)):
            raise Failed(Reason.STORE_ERROR, f"{run.images_path}/{run.partial_path} is not of this restore; remove it")
        write_file(partial, OWNER_FILE, run.uid.encode())
        if run.domain:
            _copy_nvram(set_directory, partial)
        if run.kind is RestoreKind.DISKS and all(disk.format == "raw" for disk in run.disks):
            _emit_virtual_machine(set_directory, partial, run)
        if run.kind in LIVE_KINDS:
            for disk in run.disks:
                _make_overlay(partial, run, disk)
        os.fsync(partial)


def directory_state(images: int, run: RestoreRun, path: str) -> str:
    """Return "absent", "ours" or "foreign"."""
    try:
        with below(images, path) as directory:
            return "ours" if owner_uid(directory) == run.uid else "foreign"
    except FileNotFoundError:
        return "absent"


def _emit_virtual_machine(set_directory: int, partial: int, run: RestoreRun) -> None:
    """Write a VirtualMachine of KubeVirt for raw images beside them; the images are of use without it."""
    try:
        text = virtual_machine(read_domain_xml(set_directory), run)
    except (Failed, FileNotFoundError, UnicodeDecodeError) as error:
        _log.warning("%s: no %s was written: %s", run.key, VIRTUAL_MACHINE_FILE, error)
        return
    write_file(partial, VIRTUAL_MACHINE_FILE, text.encode())


def _copy_nvram(set_directory: int, partial: int) -> None:
    with suppress(FileNotFoundError):
        file = open_file(set_directory, NVRAM_FILE)
        with os.fdopen(file, "rb") as stream:
            write_file(partial, NVRAM_FILE, stream.read(NVRAM_BYTES_MAX))


def flatten(task: Task, images: int, run: RestoreRun, disk: RestoreDisk) -> Result:
    """Complete an overlay that no guest runs on: put it over the set again, bring what it lacks, take the set off.

    qemu-img takes QEMU's lock on the image: it fails as long as a QEMU has it open. Raises: Failed, OSError, Stopped.
    """
    name = os.path.basename(disk.file)
    set_image = f"{run.location_path}/{run.set_path}/{disk.image}"
    with below(images, run.directory) as directory:
        image = open_file(directory, name, os.O_RDWR)
        try:
            path = f"/proc/self/fd/{directory}/{name}"
            over_the_set = ["-u", "-b", set_image, "-F", disk.image_format]
            for how in (over_the_set, ["-b", ""]):
                ended = run_child(
                    ["qemu-img", "rebase", "-f", "qcow2", *how, path],
                    files=(directory,),
                    limits=Limits(),
                    started=task.started,
                )
                task.check()
                if ended.error or ended.code != 0:
                    raise Failed(Reason.COPY_FAILED, f"{name}: qemu-img rebase: {ended.error or ended.last_words}")
            os.fsync(image)
            return Result(allocated_bytes(image))
        finally:
            os.close(image)


def _make_overlay(partial: int, run: RestoreRun, disk: RestoreDisk) -> None:
    """Make an empty overlay over the set's image, which is not opened for it (-u), with its format written down."""
    name = os.path.basename(disk.file)
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=partial)
    below_it = f"{run.location_path}/{run.set_path}/{disk.image}"
    ended = run_child(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below_it, "-F", disk.image_format,
         f"/proc/self/fd/{partial}/{name}", str(disk.virtual_bytes)],
        files=(partial,),
        limits=Limits(),
        started=lambda _process: None,
    )  # fmt: skip
    if ended.error or ended.code != 0:
        raise Failed(Reason.STORE_ERROR, f"{name}: qemu-img create: {ended.error or ended.last_words}")
    file = open_file(partial, name, os.O_RDWR)
    os.fchmod(file, FILE_MODE)
    os.fsync(file)
    os.close(file)


def place_directory(images: int, run: RestoreRun) -> None:
    """Give the finished working directory its final name. Done once, or twice after a crash: the same comes of it."""
    parent, _, final = run.directory.rpartition("/")
    working = run.partial_path.rpartition("/")[2]
    with below(images, parent) as directory:
        state = directory_state(images, run, run.directory)
        if state == "foreign":
            raise Failed(Reason.TARGET_EXISTS, f"{run.images_path}/{run.directory} exists and is not of this restore")
        if state == "absent":
            os.rename(working, final, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def release_directory(images: int, run: RestoreRun) -> None:
    """Take our mark off: from now on the images are the user's."""
    with suppress(FileNotFoundError), below(images, run.directory) as directory:
        os.unlink(OWNER_FILE, dir_fd=directory)
        os.fsync(directory)


def remove_directory(images: int, run: RestoreRun, path: str) -> None:
    """Remove a directory of ours with all that is in it; that it is gone, or not ours, is fine."""
    parent, _, name = path.rpartition("/")
    with suppress(FileNotFoundError), below(images, parent) as above:
        inner = enter(above, name, path)
        try:
            owner = owner_uid(inner)
            if owner != run.uid and (owner or os.listdir(inner)):
                return
            empty_directory(inner, last=(OWNER_FILE,))
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=above)
        os.fsync(above)


def flat_images(images: int, run: RestoreRun) -> frozenset[str]:
    """Return the disks whose image names nothing below it."""
    flat = set()
    with suppress(FileNotFoundError), below(images, run.directory) as directory:
        for disk in run.disks:
            with suppress(FileNotFoundError, ValueError):
                file = open_file(directory, os.path.basename(disk.file))
                try:
                    if not read_header(file).backing_file:
                        flat.add(disk.target)
                finally:
                    os.close(file)
    return frozenset(flat)


def reseal(directory: int, run: RestoreRun) -> None:
    """Take the set's images out of QEMU's hands: libvirt gives every image of a running chain to QEMU's user."""
    for disk in run.disks:
        with suppress(FileNotFoundError, PermissionError):
            file = open_file(directory, disk.image)
            try:
                if os.fstat(file).st_uid != os.geteuid():
                    os.fchown(file, os.geteuid(), os.getegid())
                os.fchmod(file, FILE_MODE)
            finally:
                os.close(file)


def read_domain_xml(directory: int) -> str:
    """Return the VM's definition as the set has it. Raises: OSError, Failed."""
    file = open_file(directory, names.DOMAIN_FILE)
    try:
        return os.read(file, 4 * 1024 * 1024).decode()
    finally:
        os.close(file)


def too_little(free_bytes: int, reserve_bytes: int, needed_bytes: int, where: str) -> Refused:
    return Refused(
        Reason.NO_SPACE,
        f"{human_bytes(needed_bytes)} are needed in {where}, but only {human_bytes(free_bytes)} are free and "
        f"{human_bytes(reserve_bytes)} must stay so. Free space there.",
    )


def _broken(run: RestoreRun, words: str) -> Refused:
    return Refused(Reason.SET_BROKEN, f"set {run.set_path}: {words}; nothing was restored from it.")
