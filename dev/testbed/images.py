"""Disk images for guests: plain, on a golden image, and as a loop device."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import TestbedError

BLOCK_BYTES = 1 << 20
PAGE_BYTES = 4096


def disk_image(path: Path, format: str, virtual_bytes: int, data_bytes: int = 0) -> Path:  # noqa: A002 - qemu-img's word
    """Make an image ("qcow2" or "raw") of `virtual_bytes` whose first `data_bytes` do not compress; return `path`.

    About half a second per GiB. Raises TestbedError when qemu-img refuses.
    """
    if format == "raw":
        with path.open("wb") as file:
            _write_data(file.fileno(), data_bytes)
            file.truncate(virtual_bytes)
        return path
    qemu_img("create", "-q", "-f", format, str(path), str(virtual_bytes))
    if data_bytes:
        raw = path.with_name(f".{path.name}.raw")
        try:
            disk_image(raw, "raw", virtual_bytes, data_bytes)
            qemu_img("convert", "-n", "-f", "raw", "-O", format, str(raw), str(path))
        finally:
            raw.unlink(missing_ok=True)
    return path


def overlay_image(path: Path, backing: Path, backing_format: str = "qcow2") -> Path:
    """Make an empty qcow2 over a golden image and return `path`."""
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(backing), "-F", backing_format, str(path))
    return path


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    """Yield a block device on a raw file. The kernel drops it when its last user is gone, this process included."""
    device = Path(_run("losetup", "--find", "--show", str(file)).strip())
    holder = os.open(device, os.O_RDONLY)
    try:
        _run("losetup", "--detach", str(device))  # in use, so this only marks it to be dropped at last close
        yield device
    finally:
        os.close(holder)


def sequence_numbers(image_a: Path, image_b: Path) -> tuple[int, int]:
    """Return the numbers that the test guest wrote to its disks A and B, from two raw or qcow2 images.

    In one point in time B <= A <= B + 1. Raises TestbedError when an image cannot be read.
    """
    return _sequence_number(image_a), _sequence_number(image_b)


def qemu_img(*arguments: str) -> str:
    """Run qemu-img and return its stdout. Raises TestbedError with its stderr."""
    return _run("qemu-img", *arguments)


def _sequence_number(image: Path) -> int:
    image_format = json.loads(qemu_img("info", "-U", "--output=json", str(image)))["format"]
    dump = _run("qemu-io", "-r", "-U", "-f", image_format, "-c", "read -v 0 8", str(image))
    words = re.search(r"^00000000:\s+((?:[0-9a-f]{2} ){8})", dump, re.MULTILINE)
    if not words:
        raise TestbedError(f"{image} holds no sequence number: {dump}")
    return int.from_bytes(bytes.fromhex(words[1]), "little")


def _write_data(descriptor: int, data_bytes: int) -> None:
    """Write random bytes; only the first 8 of a page differ from one block to the next, which is much faster."""
    block = bytearray(os.urandom(BLOCK_BYTES))
    for start in range(0, data_bytes, BLOCK_BYTES):
        for page in range(0, BLOCK_BYTES, PAGE_BYTES):
            block[page : page + 8] = (start + page + 1).to_bytes(8, "little")
        os.pwrite(descriptor, memoryview(block)[: data_bytes - start], start)


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise TestbedError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout
