"""Finding sets: what is published below a location, by its manifests. Names of directories are never believed."""

import logging
import os
from collections.abc import Iterator

from pydantic import ValidationError

from vmbackup.api import names
from vmbackup.api.manifest import Manifest
from vmbackup.core.restore_plan import SetFacts
from vmbackup.errors import Failed
from vmbackup.store.paths import below, enter, location_directory, open_file, plain

MANIFEST_BYTES_MAX = 4 * 1024 * 1024
_log = logging.getLogger(__name__)


def find_sets(location_path: str, namespace: str, vm: str) -> list[SetFacts]:
    """Return the published sets of one VM, the newest point in time first. What is no set of this VM is left out.

    Raises: Refused: the location is unusable. OSError: the file system is in trouble.
    """
    with location_directory(location_path) as location:
        found = list(_of_vm(location, namespace, vm))
    return sorted(found, key=lambda one: (one.manifest.point_in_time, one.path), reverse=True)


def find_by_uid(location_path: str, namespace: str, uid: str) -> SetFacts | None:
    """Return the set that a VMBackup of the namespace has published, None without one. Raises: as `find_sets`."""
    with location_directory(location_path) as location:
        for vm in _directories(location, namespace):
            for one in _of_vm(location, namespace, vm):
                if one.manifest.backup_uid == uid:
                    return one
    return None


def find_named(location_path: str, namespace: str, backup: str) -> list[SetFacts]:
    """Return the sets that VMBackups of this name have published. Raises: as `find_sets`."""
    with location_directory(location_path) as location:
        every = [one for vm in _directories(location, namespace) for one in _of_vm(location, namespace, vm)]
    return [one for one in every if one.manifest.backup_name == backup]


def read_manifest(directory: int) -> Manifest:
    """Return the manifest of an open set. Raises: FileNotFoundError, Failed, ValidationError, OSError."""
    file = open_file(directory, names.MANIFEST_FILE)
    try:
        return Manifest.model_validate_json(os.read(file, MANIFEST_BYTES_MAX))
    finally:
        os.close(file)


def _of_vm(location: int, namespace: str, vm: str) -> Iterator[SetFacts]:
    parent = f"{namespace}/{vm}"
    for name in _directories(location, parent):
        path = f"{parent}/{name}"
        try:
            with below(location, path) as directory:
                manifest = read_manifest(directory)
                if (manifest.backup_namespace, manifest.vm) == (namespace, vm):
                    yield SetFacts(path, manifest, _allocated(directory, manifest))
        except FileNotFoundError:
            continue  # no manifest: no set, or removed meanwhile
        except (Failed, ValidationError) as error:
            _log.warning("%s is no set that can be read and is left alone: %s", path, error)


def _directories(location: int, path: str) -> list[str]:
    """Return the visible directories of one; hidden ones are unfinished or trash."""
    if not all(plain(part) for part in path.split("/")):
        return []
    try:
        with below(location, path) as directory:
            return [
                name for name in sorted(os.listdir(directory)) if not name.startswith(".") and _enters(directory, name)
            ]
    except FileNotFoundError:
        return []


def _enters(directory: int, name: str) -> bool:
    try:
        os.close(enter(directory, name, name))
    except (Failed, OSError):
        return False
    return True


def _allocated(directory: int, manifest: Manifest) -> dict[str, int]:
    """Return what each image occupies. Raises: Failed: one is missing."""
    sizes = {}
    for disk in manifest.disks:
        try:
            file = open_file(directory, disk.file) if plain(disk.file) else -1
        except FileNotFoundError:
            file = -1
        if file >= 0:
            sizes[disk.target] = os.fstat(file).st_blocks * 512
            os.close(file)
    return sizes
