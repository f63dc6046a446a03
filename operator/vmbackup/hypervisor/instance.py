"""Which QEMU process runs a VM: tells a guest that was started anew from one whose daemon was restarted.

libvirt does not tell the pid, so it is looked for in /proc: libvirt starts every QEMU with `-uuid <the domain's>`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
STATE_FIELD, START_TIME_FIELD = 0, 19  # of /proc/<pid>/stat after the command's name: proc_pid_stat(5) fields 3, 22


class Instances:
    """Finds QEMU processes; remembers what it found, so that /proc is searched once per start of a guest."""

    def __init__(self, proc: Path = PROC, pids: Callable[[], Iterable[int]] | None = None) -> None:
        """`pids`: the processes among which a QEMU may be; default: all that are visible."""
        self._proc = proc
        self._pids = pids or self._every
        self._known: dict[str, tuple[int, int, str]] = {}  # UUID -> id in libvirt, pid, start time
        self._lock = threading.Lock()

    def instance(self, uuid: str, domain_id: int) -> str:
        """Return boot, pid and start time of the VM's QEMU; empty when no such process is visible.

        `domain_id`: libvirt's number of this run of the VM; a new number means a new QEMU.
        """
        with self._lock:
            known = self._known.get(uuid)
        if known is not None:
            known_id, pid, start_time = known
            if known_id == domain_id and self._start_time(pid) == start_time:
                return self._name(pid, start_time)
        found = self._find(uuid)
        with self._lock:
            self._known.pop(uuid, None)
            if found is not None:
                self._known[uuid] = (domain_id, *found)
        return self._name(*found) if found is not None else ""

    def _name(self, pid: int, start_time: str) -> str:
        boot = (self._proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{pid}.{start_time}"

    def _find(self, uuid: str) -> tuple[int, str] | None:
        for pid in self._pids():
            if self._is_qemu_of(self._proc / str(pid), uuid):
                start_time = self._start_time(pid)
                if start_time is not None:
                    return pid, start_time
        return None

    def _every(self) -> Iterator[int]:
        return (int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit())

    @staticmethod
    def _is_qemu_of(entry: Path, uuid: str) -> bool:
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False  # ended meanwhile
        return any(words[at : at + 2] == [b"-uuid", uuid.encode()] for at in range(len(words) - 1))

    def _start_time(self, pid: int) -> str | None:
        """Return when a process was started, in clock ticks since boot; None when it is gone or a zombie."""
        try:
            stat = (self._proc / str(pid) / "stat").read_text()
        except OSError:
            return None
        # The command's name stands in brackets and may hold brackets and blanks itself.
        fields = stat.rpartition(")")[2].split()
        return None if fields[STATE_FIELD] in ("Z", "X") else fields[START_TIME_FIELD]
