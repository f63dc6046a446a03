"""The disk image to copy, opened so that what was checked is what is read."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, RunDisk
from vmbackup.errors import Failed
from vmbackup.store.qcow2 import Header, read_header


@dataclass(frozen=True)
class Layer:
    """One open image of a chain."""

    file: int
    path: str
    format: str
    is_block: bool

    @property
    def node(self) -> dict[str, object]:
        """Return the image as a block node of QEMU's: explicit formats, our descriptor, nothing below it."""
        driver = "host_device" if self.is_block else "file"
        below: dict[str, object] = {"driver": driver, "filename": f"/proc/self/fd/{self.file}"}
        node: dict[str, object] = {"driver": self.format, "file": below}
        return {**node, "backing": None} if self.format == "qcow2" else node


@contextmanager
def open_chain(disk: RunDisk, image_roots: Sequence[str]) -> Iterator[tuple[Layer, ...]]:
    """Open the disk's source and every image below it, top to bottom, exactly as recorded.

    Raises: Failed: an image is missing, of another kind, outside of the image roots, or its header names another one.
    """
    paths = (disk.source, *disk.backing)
    with ExitStack() as opened:
        layers: list[Layer] = []
        format_ = disk.source_format
        for position, path in enumerate(paths):
            file, is_block = _open(path, image_roots)
            opened.callback(os.close, file)
            if position == 0 and is_block != (disk.source_kind == "block"):
                raise _unsafe(path, f"it is no longer the {disk.source_kind} that it was when the run began")
            layers.append(Layer(file, path, format_, is_block))
            expected = paths[position + 1] if position + 1 < len(paths) else ""
            format_ = _format_below(layers[-1], expected)
        yield tuple(layers)


def try_sources(run: Run, disk: RunDisk, image_roots: Sequence[str]) -> None:
    """Look whether the disk may be copied, before its VM is touched.

    Raises: Failed: it may not.
    """
    try:
        with open_chain(disk, image_roots):
            pass
    except Failed as error:
        raise Failed(error.reason, f"VM {run.domain}, disk {disk.target}: {error.message}") from error


def _open(path: str, image_roots: Sequence[str]) -> tuple[int, bool]:
    if not path.startswith("/") or ".." in Path(path).parts:
        raise _unsafe(path, "its path is not absolute and plain")
    follow = 0 if path.startswith("/dev/") else os.O_NOFOLLOW  # udev and LVM name devices by links
    try:
        file = os.open(path, os.O_RDONLY | follow | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        words = "it is a link" if error.errno == errno.ELOOP else f"it cannot be opened ({error.strerror})"
        raise _unsafe(path, words) from error
    try:
        return file, _is_block(path, file, image_roots)
    except BaseException:
        os.close(file)
        raise


def _is_block(path: str, file: int, image_roots: Sequence[str]) -> bool:
    """Return whether the open image is a block device. Raises: Failed: it is nothing that may be copied."""
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise _unsafe(path, "it is neither a regular file nor a block device")
    real = Path(f"/proc/self/fd/{file}").readlink()
    if image_roots and not any(real.is_relative_to(os.path.realpath(root)) for root in image_roots):
        raise _unsafe(path, f"{real} is not below an allowed image root ({', '.join(image_roots)})")
    return stat.S_ISBLK(mode)


def _format_below(layer: Layer, expected: str) -> str:
    """Return the format of the next layer, after checking that the header names the layer that libvirt showed."""
    if layer.format != "qcow2":
        if expected:
            raise _unsafe(layer.path, f"a {layer.format} image cannot have {expected} below it")
        return ""
    header = _header(layer)
    if header.has_data_file:
        raise _unsafe(layer.path, "its data lies in an external data file, which is not supported")
    named = os.path.join(os.path.dirname(layer.path), header.backing_file) if header.backing_file else ""
    if not _same(named, expected):
        raise _unsafe(
            layer.path,
            f"its header names {named or 'nothing'} below it, but libvirt showed {expected or 'nothing'}",
        )
    if expected and not header.backing_format:
        raise _unsafe(
            layer.path,
            f"its header does not tell the format of {expected}, and guessing would be a hole; "
            "shut the VM down and run 'qemu-img rebase -u -b … -F …'",
        )
    return header.backing_format


def _same(named: str, expected: str) -> bool:
    """Return whether both are one image, be it by another path: libvirt shows the real one, the header any."""
    if not named or not expected:
        return named == expected
    try:
        return os.path.samefile(named, expected)
    except OSError:
        return False


def _header(layer: Layer) -> Header:
    try:
        return read_header(layer.file)
    except ValueError as error:
        raise _unsafe(layer.path, str(error)) from error


def _unsafe(path: str, words: str) -> Failed:
    return Failed(Reason.COPY_FAILED, f"{path} was not copied: {words}")
