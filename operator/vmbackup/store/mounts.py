"""Bind mounts of unfinished sets into launcher pods: made, seen, removed.

    <location>/<namespace>/<vm>/.<name>.partial   is seen by the pod, because it is mounted on
    <kubelet>/pods/<pod UID>/volumes/kubernetes.io~empty-dir/hotplug-disks/.<name>.partial

The volume is written by the pod, so nothing in it is followed or believed: what is mounted and where are descriptors,
and a mount is known by what it shows, since the pod may rename the directory that it is on. The mount gets its limits
before it appears anywhere (mount_setattr(2), Linux 5.12): what is propagated keeps them.
"""

import ctypes
import errno
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmi import HOTPLUG_VOLUME
from vmbackup.errors import Failed
from vmbackup.store.paths import below, enter, location_directory

KUBELET = Path("/var/lib/kubelet")
MOUNTS = Path("/proc/self/mountinfo")

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_EMPTY_PATH, _CLONE, _CLOEXEC = 0x1000, 0x1, os.O_CLOEXEC
_FROM_DESCRIPTOR, _TO_DESCRIPTOR = 0x04, 0x40
_LIMITS = 0x2 | 0x4 | 0x8  # MOUNT_ATTR_NOSUID, _NODEV, _NOEXEC
_DETACH = 0x2
CANNOT = {
    errno.ENOSYS: "the node's Linux is older than 5.12.",
    errno.EPERM: "the agent may not mount; its container must be privileged (the chart's kubevirt.enabled).",
}
_POINT = re.compile(
    rf"(?P<volume>.*/pods/(?P<pod>[0-9a-f-]{{36}})/{re.escape(HOTPLUG_VOLUME)})/(?P<path>.+)", re.DOTALL
)
_ESCAPED = re.compile(r"\\([0-7]{3})")
_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One of our mounts: its number, the volume and the path in it that it is on, its pod, and what it shows.

    `location`: where the set is to be, less `set_path`; empty when that is not mounted.
    """

    number: str
    volume: str
    path: str
    pod_uid: str
    backup_uid: str
    attempt: int
    location: str
    set_path: str


class Mounts:
    """The bind mounts of this node into its launcher pods."""

    def __init__(self, kubelet: Path = KUBELET, mountinfo: Path = MOUNTS) -> None:
        """`kubelet`: the kubelet's root directory, mounted with propagation Bidirectional into the agent's pod."""
        self._pods, self._mountinfo = kubelet / "pods", mountinfo

    def every(self) -> Iterator[Mount]:
        """Yield all mounts of ours that this process sees, those of a former agent too (proc_pid_mountinfo(5))."""
        lines = self._mountinfo.read_text(errors="surrogateescape").splitlines()
        mounted = [[_unescaped(field) for field in line.split(" ")[:5]] for line in lines]
        for number, _, device, root, point in mounted:
            shown, at = names.read_partial(root.removesuffix("//deleted")), _POINT.fullmatch(point)
            if shown and at:
                others = [(other[3], other[4]) for other in mounted if other[2] == device and other[3] != root]
                yield Mount(
                    number,
                    at["volume"],
                    at["path"],
                    at["pod"],
                    shown.uid,
                    shown.attempt,
                    location=_elsewhere(shown.location, others),
                    set_path=shown.set_path,
                )

    def has(self, run: Run) -> bool:
        return any(mount.backup_uid == run.uid for mount in self.every())

    def add(self, run: Run) -> None:
        """Show the working directory of a run to its pod; one that is shown already is left as it is.

        Raises: Failed: the pod is gone, or has put something else in the way. OSError: the kernel refused.
        """
        pod_uid = _pod_uid(run)
        if self.has(run):
            return
        with location_directory(run.location_path) as location, below(location, run.partial_path) as partial:
            try:
                with self._volume(pod_uid) as volume:
                    with suppress(FileExistsError):
                        os.mkdir(run.partial_name, 0o700, dir_fd=volume)
                    point = enter(volume, run.partial_name, run.partial_name)
                    try:
                        _bind(partial, point)
                    finally:
                        os.close(point)
            except FileNotFoundError:
                raise Failed(
                    Reason.SOURCE_LOST,
                    f"VM {run.domain}: its launcher pod {pod_uid} has no volume hotplug-disks on this node any "
                    "more: it is being removed. (The agent needs the kubelet's directory, see --kubelet.)",
                    heals=True,
                ) from None

    def remove(self, run: Run) -> None:
        """Take the working directory from the pod again; one that is not there is as good. Raises: Failed, OSError."""
        for mount in self.every():
            if mount.backup_uid == run.uid:
                _unmount(mount)
        self._remove_point(_pod_uid(run), run.partial_name)

    def _remove_point(self, pod_uid: str, name: str) -> None:
        with suppress(FileNotFoundError), self._volume(pod_uid) as volume:
            try:
                os.rmdir(name, dir_fd=volume)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):  # what the pod has put there is the pod's
                    raise

    @contextmanager
    def _volume(self, pod_uid: str) -> Iterator[int]:
        """Open the volume of a pod, without following a link below the kubelet's directory."""
        pods = os.open(self._pods, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with below(pods, f"{pod_uid}/{HOTPLUG_VOLUME}") as volume:
                yield volume
        finally:
            os.close(pods)


def _pod_uid(run: Run) -> str:
    assert run.launcher is not None, "only runs of launcher pods are mounted"
    return run.launcher.pod_uid


def _unmount(mount: Mount) -> None:
    """Take a mount away, from the pod too, whoever still has it open.

    There is no call that unmounts a descriptor, but its name in /proc cannot be changed by anybody else.
    Raises: Failed: the pod has moved it at this moment. OSError: the kernel refused.
    """
    volume = os.open(mount.volume, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with below(volume, mount.path) as mounted:
            if _mount_number(mounted) != mount.number:
                raise Failed(Reason.STORE_ERROR, f"{mount.volume}/{mount.path} was moved by its pod", heals=True)
            if _libc.umount2(f"/proc/self/fd/{mounted}".encode(), _DETACH) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), f"{mount.volume}/{mount.path}")
    except FileNotFoundError:
        raise Failed(Reason.STORE_ERROR, f"{mount.volume}/{mount.path} was moved by its pod", heals=True) from None
    finally:
        os.close(volume)


def _mount_number(directory: int) -> str:
    """Return the number of the mount that an open directory is of, as in mountinfo (proc_pid_fdinfo(5))."""
    words = Path(f"/proc/self/fdinfo/{directory}").read_text().split()
    return words[words.index("mnt_id:") + 1]


def _elsewhere(path: str, mounts: Iterable[tuple[str, str]]) -> str:
    """Return where a path of a file system is seen by some mount of it: pairs of what a mount shows, and where."""
    showing = [(root.rstrip("/"), point) for root, point in mounts if f"{path}/".startswith(f"{root.rstrip('/')}/")]
    root, point = max(showing, key=lambda pair: len(pair[0]), default=("", ""))
    return f"{point.rstrip('/')}{path[len(root) :]}" if point else ""


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), field)


def _bind(directory: int, point: int) -> None:
    """Mount one open directory on another. Raises: Failed: this node or this process cannot. OSError."""
    try:
        _mount(directory, point)
    except OSError as error:
        if error.errno not in CANNOT:
            raise
        raise Failed(
            Reason.METHOD_UNSUPPORTED, f"Nothing can be shown to launcher pods: {CANNOT[error.errno]}"
        ) from None


def _mount(directory: int, point: int) -> None:
    tree = _call(_OPEN_TREE, directory, b"", _EMPTY_PATH | _CLONE | _CLOEXEC)
    try:
        attributes = struct.pack("QQQQ", _LIMITS, 0, 0, 0)
        _call(_MOUNT_SETATTR, tree, b"", _EMPTY_PATH, attributes, len(attributes))
        _call(_MOVE_MOUNT, tree, b"", point, b"", _FROM_DESCRIPTOR | _TO_DESCRIPTOR)
    finally:
        os.close(tree)


def _call(number: int, *arguments: int | bytes) -> int:
    # As longs: the C library would read the upper half of a plain int from whatever is there.
    words = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)
