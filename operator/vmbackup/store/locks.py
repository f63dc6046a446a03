"""QEMU's image locks, looked at from the outside.

QEMU marks what it does with an image by open-file-description locks on single bytes: byte 100+n is held while it uses
permission n, byte 200+n while it lets nobody else use permission n (block/file-posix.c: RAW_LOCK_PERM_BASE and
RAW_LOCK_SHARED_BASE; include/block/block-common.h: 1 write, 2 write unchanged, 3 resize).
"""

import fcntl
import struct

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_PERMISSIONS_FROM, _ALL_LENGTH = 100, 200
_WRITE, _WRITING_LENGTH = 101, 3


def is_open(file: int) -> bool:
    """Return whether another open file holds any of QEMU's locks on this image."""
    return _held(file, _PERMISSIONS_FROM, _ALL_LENGTH)


def is_written(file: int) -> bool:
    """Return whether another open file may write to this image or resize it."""
    return _held(file, _WRITE, _WRITING_LENGTH)


def _held(file: int, start: int, length: int) -> bool:
    """Ask whether an exclusive lock would be refused. Changes nothing; a read-only descriptor will do."""
    question = _FLOCK.pack(fcntl.F_WRLCK, 0, start, length, 0)
    answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, question)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
