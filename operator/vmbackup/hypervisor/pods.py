"""A launcher pod as its node sees it: its processes, its root, its libvirt daemon. Nothing in it is trusted.

A pod's file system is written by others, so every path in it is resolved by the kernel inside the pod's root
(openat2(2), RESOLVE_IN_ROOT: absolute links and `..` stay in it; RESOLVE_NO_MAGICLINKS: no way out through /proc).
What was resolved is a descriptor, and that is what is used: nothing can be swapped in between.
"""

import ctypes
import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmbackup.api.conditions import Reason
from vmbackup.api.vmi import HOTPLUG_VOLUME
from vmbackup.errors import NotYet, Refused

PROC = Path("/proc")
DAEMONS = (b"virtqemud", b"libvirtd")
# Of system daemons, and of session daemons as KubeVirt starts them (XDG_RUNTIME_DIR=/var/run) and as others do.
SOCKETS = (
    "/run/libvirt/virtqemud-sock",
    "/run/libvirt/libvirt-sock",
    "/var/run/libvirt/virtqemud-sock",
    "/var/run/libvirt/libvirt-sock",
    "/run/user/{uid}/libvirt/virtqemud-sock",
    "/run/user/{uid}/libvirt/libvirt-sock",
)
SCHEME = "launcher:"

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_POD_GROUP = re.compile(rb"[/-]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?(?:/|$)", re.MULTILINE)
_OPENAT2 = 437  # the same on every architecture, as all system calls since Linux 5.0
_IN_ROOT, _NO_MAGICLINKS = 0x10, 0x02
_AGAIN_MAX = 16  # the kernel gives up when something is renamed meanwhile, openat2(2): EAGAIN
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Daemon:
    """The libvirt daemon of a pod. `directory`: where the pod sees its volume hotplug-disks."""

    pid: int
    uid: int
    gid: int
    directory: str


def is_pod_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None


def address(pod_uid: str) -> str:
    """Return what stands for the libvirt URI of a pod; `reach` makes a real one of it."""
    return f"{SCHEME}{pod_uid}"


@contextmanager
def reach(uri: str) -> Iterator[str]:
    """Yield the URI to open now: of a pod's daemon by a descriptor of its socket, any other as it is.

    A pod's daemon may have been started anew, with a new socket: it is looked for each time.
    Raises: NotYet: the pod has no daemon now. Refused: what is there is no socket.
    """
    if not uri.startswith(SCHEME):
        yield uri
        return
    with ExitStack() as opened:
        daemon, root = opened.enter_context(_daemon(uri.removeprefix(SCHEME)))
        socket = _open_socket(root, daemon.uid)
        opened.callback(os.close, socket)
        mode = "session" if daemon.uid else "system"
        yield f"qemu+unix:///{mode}?socket=/proc/self/fd/{socket}"


def daemon_of(pod_uid: str) -> Daemon:
    """Return the libvirt daemon of a pod.

    Raises: NotYet: it has none now. Refused: the pod cannot be given a directory.
    """
    with _daemon(pod_uid) as (daemon, _):
        return daemon


def alive(pod_uid: str) -> bool:
    """Return whether any process of the pod runs; its pause process does as long as there is a pod."""
    return any(True for _ in processes(pod_uid))


def processes(pod_uid: str, proc: Path = PROC) -> Iterator[int]:
    """Yield the processes of a pod, told by their control group."""
    for entry in os.listdir(proc):
        if entry.isdigit() and _is_of(pod_uid, _text(proc / entry / "cgroup")):
            yield int(entry)


def launchers(proc: Path = PROC) -> set[str]:
    """Return the UIDs of the launcher pods on this node: those with a libvirt daemon and a volume hotplug-disks."""
    found = set()
    for entry in os.listdir(proc):
        if entry.isdigit() and _text(proc / entry / "comm").strip() in DAEMONS:
            group = _POD_GROUP.search(_text(proc / entry / "cgroup"))
            uid = group[1].decode().replace("_", "-") if group else ""
            if uid and f"/{uid}/{HOTPLUG_VOLUME} ".encode() in _text(proc / entry / "mountinfo"):
                found.add(uid)
    return found


def read_file(pod_uid: str, path: str, bytes_max: int) -> bytes:
    """Return the content of a regular file in the pod of a daemon.

    Raises: NotYet: no daemon. Refused: no regular file, or too large. OSError: it cannot be read.
    """
    with _daemon(pod_uid) as (_, root):
        file = open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(file, "rb") as stream:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > bytes_max:
                raise Refused(Reason.STORE_ERROR, f"{path} in pod {pod_uid} is no regular file, or too large.")
            return stream.read(bytes_max)


def open_inside(root: int, path: str, flags: int) -> int:
    """Open a path as a process with the root directory `root` would. Raises: OSError: as open(2) does."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS)
    for _ in range(_AGAIN_MAX):
        file = _libc.syscall(_OPENAT2, ctypes.c_long(root), os.fsencode(path), how, ctypes.c_long(len(how)))
        if file >= 0:
            return int(file)
        if ctypes.get_errno() != errno.EAGAIN:
            break
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


@contextmanager
def _daemon(pod_uid: str) -> Iterator[tuple[Daemon, int]]:
    """Yield the daemon of a pod and a descriptor of its root directory."""
    for pid in processes(pod_uid):
        with ExitStack() as opened:
            try:
                # A directory of /proc stays that of its process: no later process of the same number can slip in.
                process = os.open(PROC / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.callback(os.close, process)
                if _read(process, "comm").strip() not in DAEMONS or not _is_of(pod_uid, _read(process, "cgroup")):
                    continue
                root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=process)
                opened.callback(os.close, root)
                uid, gid = _owner(_read(process, "status"))
                mounts = _read(process, "mountinfo").decode(errors="surrogateescape")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            yield Daemon(pid, uid, gid, _hotplug_directory(pod_uid, mounts)), root
            return
    raise NotYet(
        Reason.HYPERVISOR_AWAY,
        f"pod {pod_uid} has no libvirt daemon (virtqemud or libvirtd) now; we look again. The agent must share the "
        "PID namespace of the host (hostPID).",
    )


def _open_socket(root: int, uid: int) -> int:
    for path in SOCKETS:
        try:
            file = open_inside(root, path.format(uid=uid), os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise Refused(Reason.HYPERVISOR_ERROR, f"{path} in the pod cannot be opened: {error.strerror}.") from None
        if stat.S_ISSOCK(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise NotYet(Reason.HYPERVISOR_AWAY, "the pod's libvirt daemon has no socket yet; we look again.")


def _hotplug_directory(pod_uid: str, mounts: str) -> str:
    """Return where a process sees the volume, by its mountinfo (proc_pid_mountinfo(5): fields 4, 5 and from 7).

    Raises: Refused: it has none, or one that shows no mounts of the host.
    """
    for line in mounts.splitlines():
        fields, _, _ = line.partition(" - ")
        _, _, _, source, point, _, *tags = fields.split()
        if source.endswith(f"/{pod_uid}/{HOTPLUG_VOLUME}"):
            if not any(tag.startswith(("master:", "shared:")) for tag in tags):
                raise Refused(
                    Reason.METHOD_UNSUPPORTED,
                    f"pod {pod_uid} has its volume hotplug-disks without mountPropagation HostToContainer: "
                    "no location can be shown to it.",
                )
            return point
    raise Refused(
        Reason.METHOD_UNSUPPORTED,
        f"pod {pod_uid} has no emptyDir hotplug-disks, which every launcher pod of KubeVirt has: no location can be "
        "shown to it.",
    )


def _is_of(pod_uid: str, control_groups: bytes) -> bool:
    """Tell whether a process is in the pod's control group, as the drivers cgroupfs and systemd name it."""
    ours = (b"pod" + pod_uid.encode(), b"-pod" + pod_uid.replace("-", "_").encode() + b".slice")
    parts = {part for line in control_groups.splitlines() for part in line.split(b"/")[1:]}
    return any(part == ours[0] or part.endswith(ours[1]) for part in parts)


def _owner(status: bytes) -> tuple[int, int]:
    """Return user and group that a process works as, as the host counts them."""
    found = dict(re.findall(rb"^(Uid|Gid):\s+\d+\s+(\d+)", status, re.MULTILINE))
    return int(found[b"Uid"]), int(found[b"Gid"])


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # ended meanwhile


def _read(process: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with os.fdopen(file, "rb") as stream:
        return stream.read()
