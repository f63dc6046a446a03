"""The working directory of one attempt: made, recognised as ours, removed.

It is ours when its owner file, or the manifest that takes the owner file's place at the end, carries our UID.
"""

import json
import logging
import os
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.errors import Failed, VMBackupError
from vmbackup.store.paths import below, enter, open_file, write_file
from vmbackup.store.targets import make_targets
from vmbackup.units import MIB, human_bytes

OWNER_FILE = ".owner"
NVRAM_FILE = "nvram.fd"
NVRAM_BYTES_MAX = 64 * MIB
_DOCUMENT_BYTES_MAX = 4 * MIB
_DEPTH_MAX = 8
_log = logging.getLogger(__name__)


def make_set(location: int, run: Run, domain_xml: str, read_nvram: Callable[[str], bytes] | None = None) -> None:
    """Make the `.partial` directory with the VM's definition; one that an earlier crash left is taken up again.

    `read_nvram`: see `read_host_file`.
    Raises: Failed: it exists and is not ours. OSError: the file system refused.
    """
    with below(location, run.partial_path, make=True) as partial:
        owner = owner_uid(partial)
        if owner != run.uid and (owner or os.listdir(partial)):
            raise _foreign(run)
        write_file(partial, OWNER_FILE, run.uid.encode())
        _keep_nvram(partial, run, domain_xml, read_nvram or read_host_file)
        if run.launcher is not None:
            make_targets(partial, run, run.launcher)
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
    # What somebody else has put there may be nested deeper than Python goes.
    with suppress(FileNotFoundError, ValueError, RecursionError):
        manifest = json.loads(_read(directory, names.MANIFEST_FILE))
        return str(manifest.get("backupUid", "")) if isinstance(manifest, dict) else ""
    return ""


def discard_set(location: int, run: Run) -> None:
    """Remove our `.partial` directory; that it is gone already is fine.

    Raises: Failed: it is not ours. OSError: something in it cannot be removed.
    """
    parent, _, name = run.partial_path.rpartition("/")
    with suppress(FileNotFoundError), below(location, parent) as directory:
        _remove(directory, name, run)


def discard_leftovers(location: int, run: Run) -> None:
    """Remove what a lost journal has left: working directories of other attempts of this very backup.

    A backup has one run, on one node, under the lock of its VM: whatever else carries its full UID is of no use to
    anybody. One that cannot be removed is logged: it is tried again with the next attempt.
    """
    parent, _, own = run.partial_path.rpartition("/")
    with suppress(FileNotFoundError), below(location, parent) as directory:
        for name in os.listdir(directory):
            if name != own and names.partial_uid(name) == run.uid:
                try:
                    _remove(directory, name, run)
                    _log.info("%s: the unfinished set %s of a lost record was removed", run.key, name)
                except (Failed, OSError) as error:
                    _log.warning("%s: the unfinished set %s was not removed: %s", run.key, name, error)


def _remove(directory: int, name: str, run: Run) -> None:
    partial = enter(directory, name, name)
    try:
        owner = owner_uid(partial)
        if owner != run.uid and (owner or os.listdir(partial)):
            raise _foreign(run)
        empty_directory(partial, last=(names.DOMAIN_FILE, OWNER_FILE, names.MANIFEST_FILE))
    finally:
        os.close(partial)
    os.rmdir(name, dir_fd=directory)
    os.fsync(directory)


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


def read_host_file(path: str) -> bytes:
    """Return a regular file that libvirt of this host names. Raises: Failed: it is none. OSError."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > NVRAM_BYTES_MAX:
            raise Failed(Reason.STORE_ERROR, f"it is no regular file, or has {human_bytes(status.st_size)}")
        return stream.read(NVRAM_BYTES_MAX)


def _keep_nvram(partial: int, run: Run, domain_xml: str, read_nvram: Callable[[str], bytes]) -> None:
    """Store the firmware's variables, so that a VM with UEFI boots after a restore. A VM boots without them, too."""
    path = _nvram_path(domain_xml)
    if not path:
        return
    try:
        content = read_nvram(path)
    except (OSError, VMBackupError) as error:
        _log.warning("VM %s: NVRAM %s was not stored: %s", run.domain, path, error)
        return
    if not _is_nvram(content):
        _log.warning("VM %s: NVRAM %s was not stored: it holds no firmware variables", run.domain, path)
        return
    write_file(partial, NVRAM_FILE, content)


def _is_nvram(content: bytes) -> bool:
    """Return whether these are firmware variables: who writes a domain's XML must not get any file of the host.

    Raw they begin with a volume's header (UEFI PI 3: EFI_FIRMWARE_VOLUME_HEADER); a qcow2 image stands alone.
    """
    if content.startswith(b"QFI\xfb") and len(content) >= 32:
        backing_at, virtual_bytes = struct.unpack_from(">Q", content, 8)[0], struct.unpack_from(">Q", content, 24)[0]
        return bool(backing_at == 0 and virtual_bytes <= NVRAM_BYTES_MAX)
    return content[40:44] == b"_FVH"


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
