"""Everything that stands in a location, by what it says of itself: sets, unfinished ones, trash, others' things."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from vmbackup.api import names
from vmbackup.api.manifest import Manifest
from vmbackup.errors import Failed
from vmbackup.store import holds
from vmbackup.store.finding import read_manifest
from vmbackup.store.paths import below, enter, location_directory, open_file, plain

State = Literal["set", "damaged", "unfinished", "trash", "unknown"]


@dataclass(frozen=True)
class Entry:
    """One directory. `path`: relative to the location. `stored_bytes`: what its files occupy. `words`: what is up."""

    path: str
    state: State
    stored_bytes: int = 0
    manifest: Manifest | None = None
    words: str = ""


def entries(location_path: str, namespace: str = "") -> list[Entry]:
    """Return everything at the places of sets, by path; of one namespace or of all. Changes nothing.

    Raises: Refused: the location is unusable. OSError: the file system is in trouble.
    """
    with location_directory(location_path) as location:
        found = []
        for team in [namespace] if namespace else _directories(location, ""):
            for vm in _directories(location, team):
                parent = f"{team}/{vm}"
                found += [_entry(location, parent, name) for name in _directories(location, parent, hidden=True)]
    return sorted(found, key=lambda entry: entry.path)


def _directories(location: int, path: str, *, hidden: bool = False) -> list[str]:
    """Return the names of the directories in one, links left out; none when it is not there."""
    try:
        if not path:
            return list(_names(location, hidden=hidden))
        with below(location, path) as directory:
            return list(_names(directory, hidden=hidden))
    except (FileNotFoundError, Failed):
        return []


def _names(directory: int, *, hidden: bool) -> Iterator[str]:
    for name in sorted(os.listdir(directory)):
        if (hidden or not name.startswith(".")) and name != "lost+found":
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield name


def _entry(location: int, parent: str, name: str) -> Entry:
    path = f"{parent}/{name}"
    with below(location, parent) as above:
        directory = enter(above, name, path)
    try:
        size = _stored_bytes(directory)
        if name.endswith(".partial"):
            return Entry(path, "unfinished", size, None, "a backup is under way or was cut off")
        if name.endswith(".trash"):
            return Entry(path, "trash", size, None, "its removal is under way or was cut off")
        if name.startswith("."):
            return Entry(path, "unknown", size)
        return _published(directory, path, size)
    finally:
        os.close(directory)


def _published(directory: int, path: str, size: int) -> Entry:
    try:
        manifest = read_manifest(directory)
    except FileNotFoundError:
        return Entry(path, "unknown", size, None, f"no {names.MANIFEST_FILE}: not a set of ours")
    except (Failed, ValidationError) as error:
        words = error.message if isinstance(error, Failed) else str(error.errors()[0]["msg"])
        return Entry(path, "damaged", size, None, f"{names.MANIFEST_FILE} cannot be read: {words}")
    wrong = list(_wrong(directory, path, manifest))
    in_use = [one.words for one in holds.of(directory)]
    return Entry(path, "damaged" if wrong else "set", size, manifest, "; ".join([*wrong, *in_use]))


def _wrong(directory: int, path: str, manifest: Manifest) -> Iterator[str]:
    """Yield what can be seen to be wrong without reading the images."""
    if path.split("/")[:2] != [manifest.backup_namespace, manifest.vm]:
        yield f"it says to be of {manifest.backup_namespace}/{manifest.vm}: was it moved?"
    for disk in manifest.disks:
        try:
            file = open_file(directory, disk.file) if plain(disk.file) else None
        except (FileNotFoundError, Failed):
            file = None
        if file is None:
            yield f"{disk.file} is missing"
            continue
        size = os.fstat(file).st_size
        os.close(file)
        if size == 0 or (disk.format == "raw" and size != disk.virtual_bytes):
            yield f"{disk.file} has {size} bytes"


def _stored_bytes(directory: int) -> int:
    return sum(os.stat(name, dir_fd=directory, follow_symlinks=False).st_blocks * 512 for name in os.listdir(directory))
