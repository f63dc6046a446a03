"""The working directory of one attempt: made, recognised as ours, removed.

It is ours when its owner file, or the manifest that takes the owner file's place at the end, carries our UID.
"""

import json
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.errors import Failed
from vmbackup.store.paths import below, enter, open_file, write_file
from vmbackup.units import MIB, human_bytes

OWNER_FILE = ".owner"
NVRAM_FILE = "nvram.fd"
NVRAM_BYTES_MAX = 64 * MIB
_DOCUMENT_BYTES_MAX = 4 * MIB
_DEPTH_MAX = 8
_log = logging.getLogger(__name__)


def make_set(location: int, run: Run, domain_xml: str) -> None:
    """Make the `.partial` directory with the VM's definition; one that an earlier crash left is taken up again.

    Raises: Failed: it exists and is not ours. OSError: the file system refused.
    """
    with below(location, run.partial_path, make=True) as partial:
        owner = owner_uid(partial)
        if owner != run.uid and (owner or os.listdir(partial)):
            raise _foreign(run)
        write_file(partial, OWNER_FILE, run.uid.encode())
        _keep_nvram(partial, run, domain_xml)
        write_file(partial, names.DOMAIN_FILE, domain_xml.encode())
        os.fsync(partial)


def is_ours(location: int, run: Run, path: str) -> bool:
    """Return whether a directory of the location carries our UID and is complete: domain.xml is made last."""
    try:
        with below(location, path) as directory:
            os.stat(names.DOMAIN_FILE, dir_fd=directory, follow_symlinks=False)
            return owner_uid(directory) == run.uid
    except FileNotFoundError:
        return False


def owner_uid(directory: int) -> str:
    """Return the UID of the backup that a directory belongs to, empty when it says nothing."""
    with suppress(FileNotFoundError):
        return _read(directory, OWNER_FILE).decode("ascii", "replace").strip()
    with suppress(FileNotFoundError, ValueError):
        manifest = json.loads(_read(directory, names.MANIFEST_FILE))
        return str(manifest.get("backupUid", "")) if isinstance(manifest, dict) else ""
    return ""


def discard_set(location: int, run: Run) -> None:
    """Remove our `.partial` directory; that it is gone already is fine.

    Raises: Failed: it is not ours. OSError: something in it cannot be removed.
    """
    parent, _, name = run.partial_path.rpartition("/")
    try:
        with below(location, parent) as directory:
            partial = enter(directory, name, run.partial_path)
            try:
                owner = owner_uid(partial)
                if owner != run.uid and (owner or os.listdir(partial)):
                    raise _foreign(run)
                empty_directory(partial, last=(names.DOMAIN_FILE, OWNER_FILE, names.MANIFEST_FILE))
            finally:
                os.close(partial)
            os.rmdir(name, dir_fd=directory)
            os.fsync(directory)
    except FileNotFoundError:
        return


def empty_directory(directory: int, last: tuple[str, ...] = (), depth: int = 0) -> None:
    """Remove what is in a directory, links as links; what tells that it is ours goes last."""
    if depth > _DEPTH_MAX:
        raise Failed(
            Reason.STORE_ERROR, f"directories are nested deeper than {_DEPTH_MAX}: not made by us, not removed"
        )
    for name in sorted(os.listdir(directory), key=lambda name: last.index(name) + 1 if name in last else 0):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            inner = enter(directory, name, name)
            try:
                empty_directory(inner, depth=depth + 1)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


def _read(directory: int, name: str) -> bytes:
    file = open_file(directory, name)
    try:
        return os.read(file, _DOCUMENT_BYTES_MAX)
    finally:
        os.close(file)


def _keep_nvram(partial: int, run: Run, domain_xml: str) -> None:
    """Store the firmware's variables, so that a VM with UEFI boots after a restore. A VM boots without them, too."""
    path = _nvram_path(domain_xml)
    if not path:
        return
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > NVRAM_BYTES_MAX:
                _log.warning("VM %s: NVRAM %s of %s was not stored", run.domain, path, human_bytes(status.st_size))
                return
            write_file(partial, NVRAM_FILE, stream.read(NVRAM_BYTES_MAX))
    except OSError as error:
        _log.warning("VM %s: NVRAM %s was not stored: %s", run.domain, path, error.strerror)


def _nvram_path(domain_xml: str) -> str:
    # Expat refuses entity bombs since 2.4.1, and libvirt has written this text itself.
    try:
        path = (ET.fromstring(domain_xml).findtext("os/nvram") or "").strip()  # noqa: S314
    except ET.ParseError:
        return ""
    return path if path.startswith("/") and ".." not in Path(path).parts else ""


def _foreign(run: Run) -> Failed:
    return Failed(
        Reason.STORE_ERROR,
        f"VM {run.domain}: {run.location_path}/{run.partial_path} exists and does not belong to this backup; "
        "nothing in it was changed. Look who made it, and remove it.",
    )
