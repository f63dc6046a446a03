"""Verifying one image of the set: nobody writes to it, it is whole, it is on disk."""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Verify
from vmbackup.errors import Failed
from vmbackup.store.children import OUTPUT_BYTES_MAX, Limits, run_child
from vmbackup.store.copying import allocated_bytes
from vmbackup.store.locks import is_open
from vmbackup.store.qcow2 import read_header
from vmbackup.store.works import READ_BYTES, Result, Task
from vmbackup.units import GIB, human_bytes

UNLOCK_SECONDS = 60.0
CHECK_CPU_SECONDS = 3600
SECTOR_BYTES = 512
_CORRUPT, _LEAKS = 2, 3  # exit codes of qemu-img check, see its manual page
_log = logging.getLogger(__name__)


def verify_image(task: Task, run: Run, disk: RunDisk, image: int) -> Result:
    """Verify an open image as far as the VMBackup asks. Sizes and headers are always looked at.

    Raises: Failed: the image is not a whole copy of the disk. OSError: it cannot be read. Stopped.
    """
    _await_unlocked(task, disk, image)
    os.fsync(image)
    return verify_content(task, Expected(disk.image, disk.image_format, disk.virtual_bytes), image, run.spec.verify)


@dataclass(frozen=True)
class Expected:
    """What an image must be: complete in itself, of this format and size. `image`: its name, for messages."""

    image: str
    image_format: str
    virtual_bytes: int


def verify_content(task: Task, disk: Expected, image: int, verify: Verify, limit_bytes_per_second: int = 0) -> Result:
    """Verify an open image that nobody writes to, as far as `verify` asks.

    Raises: Failed: it is not what is expected. OSError: it cannot be read. Stopped.
    """
    _compare(disk, image)
    if verify is not Verify.NONE and disk.image_format == "qcow2":
        _check(task, disk, image)
    sha256 = _digest(task, image, limit_bytes_per_second) if verify is Verify.CHECKSUM else ""
    return Result(allocated_bytes(image), sha256)


def _await_unlocked(task: Task, disk: RunDisk, image: int) -> None:
    """libvirt tells the end of a push job up to 300 ms before QEMU has closed the last target."""
    waited_seconds = 0.0
    while is_open(image):
        if waited_seconds > UNLOCK_SECONDS:
            raise _broken(disk, f"another process still has it open after {UNLOCK_SECONDS:.0f} seconds")
        task.rest(0.05)
        waited_seconds += 0.05


def _compare(disk: Expected, image: int) -> None:
    """Compare what the image says of itself with the disk, without opening anything that it names."""
    if disk.image_format != "qcow2":
        virtual_bytes = -(-os.fstat(image).st_size // SECTOR_BYTES) * SECTOR_BYTES  # QEMU shows whole sectors
    else:
        try:
            header = read_header(image)
        except ValueError as error:
            raise _broken(disk, str(error)) from error
        if header.backing_file or header.has_data_file:
            raise _broken(disk, "it refers to another file, so it is no whole copy")
        if header.is_corrupt:
            raise _broken(disk, "QEMU has marked it as corrupt; look at the disk it was copied from")
        virtual_bytes = header.virtual_bytes
    if virtual_bytes != disk.virtual_bytes:
        sizes = f"{human_bytes(virtual_bytes)} ({virtual_bytes} bytes), the disk {disk.virtual_bytes}"
        raise _broken(disk, f"it holds {sizes}; was the disk resized during the backup?")


def _check(task: Task, disk: Expected, image: int) -> None:
    # qemu-img check keeps 2 bytes per cluster in memory; the smallest cluster is 512 bytes.
    memory_bytes = GIB + disk.virtual_bytes // 128
    # A node with nothing below it: should somebody change the header now, no file that it names is opened.
    file = {"driver": "file", "filename": f"/proc/self/fd/{image}"}
    node = json.dumps({"driver": "qcow2", "file": file, "backing": None})
    ended = run_child(
        ["qemu-img", "check", "--output=json", f"json:{node}"],
        files=(image,),
        limits=Limits(address_space_bytes=memory_bytes, cpu_seconds=CHECK_CPU_SECONDS, file_bytes=OUTPUT_BYTES_MAX),
        started=task.started,
    )
    task.check()
    if ended.error or ended.code not in (0, _CORRUPT, _LEAKS):
        words = ended.error or f"qemu-img check ended with code {ended.code}"
        raise _broken(disk, f"{words}: {ended.last_words or 'it said nothing'}")
    found = json.loads(ended.output)
    if ended.code == _CORRUPT or found.get("corruptions") or found.get("check-errors"):
        counts = f"{found.get('corruptions', 0)} corruptions, {found.get('check-errors', 0)} errors"
        raise _broken(disk, f"qemu-img check found {counts}: {ended.last_words or 'no details'}")
    if ended.code == _LEAKS:
        leaks = found.get("leaks", 0)
        _log.info("%s: %s: %s clusters of the image are allocated but unused", task.name, disk.image, leaks)


def _digest(task: Task, image: int, limit_bytes_per_second: int = 0) -> str:
    digest = hashlib.sha256()
    offset = 0
    started = time.monotonic()
    while data := os.pread(image, READ_BYTES, offset):
        task.check()
        digest.update(data)
        offset += len(data)
        task.bytes_done = offset
        if limit_bytes_per_second:
            task.rest(max(0.0, offset / limit_bytes_per_second - (time.monotonic() - started)))
    return digest.hexdigest()


def _broken(disk: RunDisk | Expected, words: str) -> Failed:
    return Failed(Reason.VERIFICATION_FAILED, f"{disk.image}: {words}", heals=True)
