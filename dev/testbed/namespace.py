"""A private mount and PID namespace that ends with the process that made it."""

import contextlib
import os
import select
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.errors import TestbedError

# `slave` lets later mounts of the machine through, never ours out.
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave")


def end(pid: int) -> None:
    """Kill the namespace whose `unshare` has this PID and return when the last process in it is gone."""
    try:
        first = os.pidfd_open(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]))
    except (OSError, IndexError):
        first = -1  # it has ended already
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # --kill-child takes the first process along, and the kernel all the others
    if first >= 0:
        select.select([first], [], [])  # readable when the first process is reaped, which comes last
        os.close(first)


class Namespace:
    """Processes and mounts of their own; nothing is left when this process closes it, exits or is killed.

    The first process of the namespace reads a pipe from us. When we are gone the pipe ends, that process exits,
    and the kernel kills everything else in the namespace and drops its mounts.
    """

    def __init__(self, setup: str, *, network: "bool | Namespace" = False, afterwards: str = "") -> None:
        """`setup`: shell lines (run with `set -e`) that make the mounts.

        network: True for a network of its own, or the namespace whose network to use. afterwards: shell lines that
        are run outside once nothing runs inside any more, also when this process was killed.
        """
        self._setup, self._network, self._afterwards = setup, network, afterwards
        self._process: subprocess.Popen[str] | None = None
        self._undertaker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the namespace and its mounts. Raises TestbedError when the set-up fails."""
        # The shell stays, because somebody must reap orphans.
        script = f"set -e\n{self._setup}\necho ready\nset +e\ncat >/dev/null\nexit 0\n"
        joined = self._network.in_network() if isinstance(self._network, Namespace) else []
        net = ["--net"] if self._network is True else []
        # `unshare` and the shell hold the one end of a pipe, the undertaker waits at the other.
        waited, held = os.pipe()
        with open(waited, "rb") as end_of_life, open(held, "wb"):
            self._process = subprocess.Popen(
                [*joined, *UNSHARE, *net, "sh", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                pass_fds=[held],
            )
            if self._afterwards:
                self._undertaker = subprocess.Popen(
                    ["sh", "-c", f"cat >/dev/null\n{self._afterwards}"], stdin=end_of_life, start_new_session=True
                )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise TestbedError("The namespace could not be set up (see the lines above). It needs root.")

    def command(self, *arguments: str, root: Path | None = None) -> list[str]:
        """Return the command line that runs `arguments` inside, in the chroot `root` when given."""
        at = f"/proc/{self.pid}/ns"
        inside = ["chroot", str(root)] if root else []
        net = [f"--net={at}/net"] if self._network else []
        return ["nsenter", f"--mount={at}/mnt", f"--pid={at}/pid_for_children", *net, "--", *inside, *arguments]

    def in_network(self, *arguments: str) -> list[str]:
        """Return the command line that runs `arguments` in the network of the namespace, else as outside."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *arguments]

    @property
    def pid(self) -> int:
        """The PID, as seen outside, of the process that holds the namespaces. Raises TestbedError when not started."""
        if not self._process:
            raise TestbedError("The namespace is not started: call start() first.")
        return self._process.pid

    def run(self, *arguments: str, root: Path | None = None) -> str:
        """Run a command inside and return its stdout. Raises TestbedError with its output when it fails."""
        result = subprocess.run(self.command(*arguments, root=root), capture_output=True, text=True, check=False)
        if result.returncode:
            raise TestbedError(f"{' '.join(arguments)} failed ({result.returncode}): {result.stderr or result.stdout}")
        return result.stdout

    def stop(self) -> None:
        """End every process inside and drop the mounts."""
        if self._process:
            end(self._process.pid)
            self._process.communicate()
            self._process = None
        if self._undertaker:
            self._undertaker.wait()
            self._undertaker = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
