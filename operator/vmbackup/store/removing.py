"""Removing a set: renamed to a trash name of ours, synced, then emptied. Found by its manifest, never by its name.

A crash leaves the set, or trash that carries the UID; both are found again. What says that trash is ours goes last.
"""

import os
from contextlib import suppress

from pydantic import ValidationError

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.manifest import Manifest
from vmbackup.api.removal import Removal
from vmbackup.errors import Failed, NotYet, Refused
from vmbackup.store import holds
from vmbackup.store.finding import read_manifest
from vmbackup.store.locks import is_open
from vmbackup.store.paths import below, enter, location_directory, open_file, plain
from vmbackup.store.sets import OWNER_FILE, empty_directory, owner_uid

LAST = (names.DOMAIN_FILE, OWNER_FILE, names.MANIFEST_FILE)


def remove_set(removal: Removal) -> bool:
    """Remove the set of a VMBackup; False when there is none any more. Done again after a crash: it goes on.

    Raises:
        NotYet: the VM's directory is not there (is the file system mounted?), or the set is in use.
        Refused: the location is unusable, or retention would remove the last good set of the VM.
        Failed: what stands there is not ours. OSError: the file system is in trouble.
    """
    parent = f"{removal.namespace}/{removal.vm}"
    with location_directory(removal.location_path) as location:
        try:
            with below(location, parent) as directory:
                return _remove(directory, removal)
        except FileNotFoundError:  # also when another node's agent was faster in between
            raise NotYet(
                Reason.SET_NOT_FOUND,
                f"{removal.location_path}/{parent} is not there: is the file system mounted? It is looked for again "
                "from time to time.",
            ) from None


def trash_name(name: str, uid: str) -> str:
    return f".{name}.{uid}.trash"


def _remove(directory: int, removal: Removal) -> bool:
    trash = [
        entry
        for entry in os.listdir(directory)
        if entry.startswith(".") and entry.endswith(f".{removal.set_uid}.trash")
    ]
    for entry in trash:
        _finish(directory, entry, removal)
    name = _find(directory, removal)
    if name is None:
        return bool(trash)
    away = trash_name(name, removal.set_uid)
    os.rename(name, away, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
    _finish(directory, away, removal)
    return True


def _find(directory: int, removal: Removal) -> str | None:
    """Return the name of the set, when it may be removed. Raises: NotYet, Refused, Failed."""
    found, others = None, []
    for name in sorted(os.listdir(directory)):
        manifest = None if name.startswith(".") else _manifest(directory, name)
        if manifest is None or (manifest.backup_namespace, manifest.vm) != (removal.namespace, removal.vm):
            continue
        if manifest.backup_uid == removal.set_uid:
            found = (name, manifest)
        else:
            others.append((name, manifest))
    if found is None:
        return None
    name, manifest = found
    if removal.spare_last and not any(
        other.point_in_time >= manifest.point_in_time and _is_whole(directory, at, other) for at, other in others
    ):
        raise Refused(
            Reason.SET_KEPT,
            f"retention would remove {name}, but no newer set of VM {removal.vm} is whole in {removal.location_path}: "
            "it stays. Look at the newer sets; then remove this one by hand, or leave it.",
        )
    _check_unused(directory, name, manifest)
    return name


def _finish(directory: int, trash: str, removal: Removal) -> None:
    """Empty and remove what was renamed away, or rename it back when somebody came to need it meanwhile."""
    inner = enter(directory, trash, trash)
    try:
        needed = holds.of(inner)
        if needed:
            name = trash.removeprefix(".").removesuffix(f".{removal.set_uid}.trash")
            os.rename(trash, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
            raise NotYet(Reason.SET_IN_USE, f"the set {name} is in use: {needed[0].words}")
        if owner_uid(inner) != removal.set_uid and os.listdir(inner):
            raise Failed(
                Reason.STORE_ERROR,
                f"{trash} does not belong to VMBackup {removal.key}; look who made it, and remove it",
            )
        empty_directory(inner, last=LAST)
    finally:
        os.close(inner)
    os.rmdir(trash, dir_fd=directory)
    os.fsync(directory)


def _manifest(directory: int, name: str) -> Manifest | None:
    """Return what an entry says of itself, None when it is no set of ours."""
    with suppress(FileNotFoundError, NotADirectoryError, Failed, ValidationError):
        inner = enter(directory, name, name)
        try:
            return read_manifest(inner)
        finally:
            os.close(inner)
    return None


def _is_whole(directory: int, name: str, manifest: Manifest) -> bool:
    """Return whether every image of a set is there with content."""
    inner = enter(directory, name, name)
    try:
        return all(_image_bytes(inner, disk.file) > 0 for disk in manifest.disks)
    finally:
        os.close(inner)


def _image_bytes(directory: int, name: str) -> int:
    with suppress(FileNotFoundError, Failed):
        if plain(name):
            file = open_file(directory, name)
            try:
                return os.fstat(file).st_size
            finally:
                os.close(file)
    return 0


def _check_unused(directory: int, name: str, manifest: Manifest) -> None:
    """Raises: NotYet: a VM runs on an image of the set, or a restore needs it."""
    inner = enter(directory, name, name)
    try:
        needed = [one.words for one in holds.of(inner)]
        for disk in manifest.disks:
            with suppress(FileNotFoundError, Failed):
                file = open_file(inner, disk.file)
                try:
                    if is_open(file):
                        needed.append(f"a process has {disk.file} open")
                finally:
                    os.close(file)
    finally:
        os.close(inner)
    if needed:
        raise NotYet(Reason.SET_IN_USE, f"the set {name} is in use: {'; '.join(needed)}")
