"""Sets in use: a file `.in-use.<uid>` in a set says that a restore needs it, on whichever node it runs.

Who removes sets must look twice: rename the set away first, then look for these files, and rename it back when there is
one. Who puts one must look after that whether the set still has its name.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass

from vmbackup.store.paths import open_file, write_file

_NAME = re.compile(r"\.in-use\.([0-9A-Za-z-]{1,64})")
_BYTES_MAX = 65536


@dataclass(frozen=True)
class Hold:
    """Who needs the set, by the UID of the VMRestore; `words` for people."""

    uid: str
    words: str


def hold(directory: int, uid: str, restore: str, node: str) -> None:
    """Protect an open set, durable. Again by the same restore is fine. Raises: OSError."""
    content = json.dumps({"kind": "VMRestore", "uid": uid, "restore": restore, "node": node})
    write_file(directory, f".in-use.{uid}", content.encode())
    os.fsync(directory)


def release(directory: int, uid: str) -> None:
    """End the protection by one restore; that there is none is fine. Raises: OSError."""
    name = f".in-use.{uid}"
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)  # a read-only file system refuses before it looks
        os.unlink(name, dir_fd=directory)
        os.fsync(directory)


def of(directory: int) -> tuple[Hold, ...]:
    """Return who needs an open set. One that cannot be read counts."""
    names = [(match[1], match[0]) for name in sorted(os.listdir(directory)) if (match := _NAME.fullmatch(name))]
    return tuple(Hold(uid, _words(directory, name)) for uid, name in names)


def _words(directory: int, name: str) -> str:
    try:
        file = open_file(directory, name)
        try:
            body = json.loads(os.read(file, _BYTES_MAX))
        finally:
            os.close(file)
        return f"VMRestore {body['restore']} on node {body['node']} needs it"
    except Exception:  # a hold that makes no sense is still a hold
        return f"{name} says that a restore needs it"
