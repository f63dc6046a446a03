"""What a qcow2 header says, read without QEMU: nothing that the header names is opened.

Layout: QEMU's docs/interop/qcow2.txt. A hostile header may name a backing or data file anywhere on the node
(CVE-2024-4467), so it is read here before qemu-img sees the image.
"""

import os
import struct
from dataclasses import dataclass

_MAGIC = b"QFI\xfb"
_FIXED = struct.Struct(">4sIQIIQ")  # magic, version, backing file offset and length, cluster bits, virtual size
_FEATURES_AT, _HEADER_LENGTH_AT = 72, 100
_HEADER_BYTES_MIN = 104  # of version 3; one of version 2 is shorter, but no image ends there
_CORRUPT, _DATA_FILE = 1 << 1, 1 << 2
_BACKING_FORMAT, _END = 0xE2792ACA, 0
_READ_BYTES = 65536  # extensions and the backing file's name lie in the first cluster, early
_NAME_BYTES_MAX = 1023


@dataclass(frozen=True)
class Header:
    virtual_bytes: int
    backing_file: str = ""
    backing_format: str = ""
    has_data_file: bool = False
    is_corrupt: bool = False


def read_header(file: int) -> Header:
    """Return what the header of an open qcow2 image says.

    Raises: ValueError: it is not a qcow2 image, or its header makes no sense.
    """
    block = os.pread(file, _READ_BYTES, 0)
    if len(block) < _HEADER_BYTES_MIN or not block.startswith(_MAGIC):
        raise ValueError("it does not begin as a qcow2 image does")
    _, version, name_at, name_bytes, _, virtual_bytes = _FIXED.unpack_from(block)
    if version not in (2, 3):
        raise ValueError(f"it is qcow2 version {version}, known are 2 and 3")
    features = struct.unpack_from(">Q", block, _FEATURES_AT)[0] if version == 3 else 0
    extensions_at = struct.unpack_from(">I", block, _HEADER_LENGTH_AT)[0] if version == 3 else _FEATURES_AT
    return Header(
        virtual_bytes=virtual_bytes,
        backing_file=_name(block, name_at, name_bytes),
        backing_format=_extension(block, extensions_at, _BACKING_FORMAT),
        has_data_file=bool(features & _DATA_FILE),
        is_corrupt=bool(features & _CORRUPT),
    )


def _name(block: bytes, at: int, length: int) -> str:
    if at == 0:
        return ""
    if length > _NAME_BYTES_MAX or at + length > len(block):
        raise ValueError("its backing file's name is longer than qcow2 allows, or out of place")
    name = block[at : at + length]
    if b"\0" in name:
        raise ValueError("its backing file's name holds a zero byte, so it names no file")
    return os.fsdecode(name)


def _extension(block: bytes, at: int, wanted: int) -> str:
    while at + 8 <= len(block):
        kind, length = struct.unpack_from(">II", block, at)
        if kind == _END:
            return ""
        if kind == wanted:
            return block[at + 8 : at + 8 + length].decode("ascii", "replace")
        at += 8 + (length + 7) // 8 * 8
    return ""
