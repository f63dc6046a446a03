"""Copying the base of a disk into the set while the guest writes to our overlay.

Three ways, the first that fits:
    clone    FICLONE: nothing is copied, done at once (XFS, Btrfs on the file system of the disk)
    extents  a file without a chain: its data extents by copy_file_range, holes stay holes
    convert  a chain, a block device or a change of format: qemu-img, with every image named and opened by us

Measured on ext4, 1 GiB of data in a 4 GiB qcow2, each with a final fsync, medians: cp --sparse=always 0.62 s,
cp --sparse=auto 0.53 s, qemu-img convert 0.55 s, copy_file_range 0.54 s, and 0.35 s when the kernel is told to begin
writing after every piece. So it is done here, without a child.
"""

import errno
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from functools import partial

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, RunDisk
from vmbackup.errors import Failed
from vmbackup.store.children import Limits, run_child
from vmbackup.store.locks import is_written
from vmbackup.store.sources import Layer
from vmbackup.store.works import READ_BYTES, Result, Task
from vmbackup.units import MIB

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h; fcntl has no name for it before Python 3.12
PIECE_BYTES = 16 * MIB
_CANNOT = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ETXTBSY}


def copy_disk(task: Task, run: Run, disk: RunDisk, layers: tuple[Layer, ...], image: int) -> Result:
    """Fill the open, empty file `image` with the disk's content, synced to disk.

    Raises: Failed: the base is or was written to, a child failed. OSError: no space, I/O error. Stopped.
    """
    limit = -(-run.spec.limit_bytes_per_second // len(run.disks))  # rounded up: 0 would be no limit
    return copy_layers(task, layers, image, disk.image_format, limit)


def copy_layers(task: Task, layers: tuple[Layer, ...], image: int, image_format: str, limit: int = 0) -> Result:
    """Fill the open, empty file `image` from a chain that is open. limit: bytes per second, 0 for none.

    Raises: as `copy_disk`.
    """
    top = layers[0]
    before = [_state(layer) for layer in layers]
    plain_file = len(layers) == 1 and not top.is_block and image_format == top.format
    if not (plain_file and _clone(top.file, image)):
        if plain_file:
            _copy_extents(task, top.file, image, limit)
        else:
            _convert(task, image_format, layers, image, limit)
    for layer, seen in zip(layers, before, strict=True):
        if _state(layer) != seen:
            raise _failed(f"{layer.path} was written to while it was copied, so the copy is of no single moment")
    os.fsync(image)
    task.bytes_done = allocated_bytes(image)
    return Result(task.bytes_done)


def allocated_bytes(file: int) -> int:
    return os.fstat(file).st_blocks * 512


def _state(layer: Layer) -> tuple[int, int]:
    """Return what changes when somebody writes to a file. A block device has only its locks to tell."""
    if is_written(layer.file):
        raise _failed(f"{layer.path} is open for writing in another process; no copy of it is safe")
    seen = os.fstat(layer.file)
    return (0, 0) if layer.is_block else (seen.st_size, seen.st_mtime_ns)


def _clone(source: int, image: int) -> bool:
    try:
        fcntl.ioctl(image, FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def _copy_extents(task: Task, source: int, image: int, limit_bytes_per_second: int) -> None:
    size_bytes = os.fstat(source).st_size
    os.ftruncate(image, size_bytes)
    piece_bytes = min(PIECE_BYTES, limit_bytes_per_second or PIECE_BYTES)
    move = _move
    started = time.monotonic()
    for start, end in _extents(source, size_bytes):
        offset = start
        while offset < end:
            task.check()
            try:
                moved = move(source, image, offset, min(piece_bytes, end - offset))
            except OSError as error:
                if move is _move_through_us or error.errno not in _CANNOT:
                    raise
                move = _move_through_us
                continue
            if moved == 0:
                raise OSError(errno.EIO, "the image ended before its end: it was truncated while it was copied")
            os.posix_fadvise(image, offset, moved, os.POSIX_FADV_DONTNEED)  # begins the writing, see above
            offset += moved
            task.bytes_done += moved
            if limit_bytes_per_second:
                task.rest(max(0.0, task.bytes_done / limit_bytes_per_second - (time.monotonic() - started)))


def _extents(source: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of every piece that holds data; a file system that knows no holes gives one."""
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        yield start, end


def _move(source: int, image: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, image, count, offset, offset)


def _move_through_us(source: int, image: int, offset: int, count: int) -> int:
    """Copy between two file systems, which copy_file_range refuses (EXDEV)."""
    data = os.pread(source, min(count, READ_BYTES), offset)
    written = 0
    while written < len(data):
        written += os.pwrite(image, data[written:] if written else data, offset + written)
    return len(data)


def _convert(task: Task, image_format: str, layers: tuple[Layer, ...], image: int, limit: int) -> None:
    """Flatten by qemu-img. Never -U: a lock that it cannot get means that the copy is not safe."""
    node: dict[str, object] | None = None
    for layer in reversed(layers):
        node = layer.node if node is None else {**layer.node, "backing": node}
    speed = ["-r", str(limit)] if limit else []
    ended = run_child(
        ["qemu-img", "convert", *speed, "-O", image_format, f"json:{json.dumps(node)}", f"/proc/self/fd/{image}"],
        files=(*(layer.file for layer in layers), image),
        limits=Limits(),
        started=task.started,
        meanwhile=partial(_note_progress, task, image),
    )
    task.check()
    if ended.error or ended.code != 0:
        how = ended.error or f"qemu-img convert ended with code {ended.code}"
        raise _failed(f"{layers[0].path}: {how}: {_with_paths(ended.last_words, layers) or 'it said nothing'}")


def _with_paths(words: str, layers: tuple[Layer, ...]) -> str:
    """Put paths in place of our descriptors, which tell people nothing."""
    paths = {str(layer.file): layer.path for layer in layers}
    return re.sub(r"/proc/self/fd/(\d+)", lambda match: paths.get(match[1], "the image"), words)


def _note_progress(task: Task, image: int) -> None:
    task.bytes_done = allocated_bytes(image)


def _failed(words: str) -> Failed:
    return Failed(Reason.COPY_FAILED, words, heals=True)
