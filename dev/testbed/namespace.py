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

    def __init__(self, setup: str) -> None:
        """`setup`: shell lines (run with `set -e`) that make the mounts."""
        self._setup = setup
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Make the namespace and its mounts. Raises TestbedError when the set-up fails."""
        # The shell stays, because somebody must reap orphans.
        script = f"set -e\n{self._setup}\necho ready\nset +e\ncat >/dev/null\nexit 0\n"
        self._process = subprocess.Popen(
            [*UNSHARE, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            self.stop()
            raise TestbedError("The namespace could not be set up (see the lines above). It needs root.")

    def command(self, *arguments: str, root: Path | None = None) -> list[str]:
        """Return the command line that runs `arguments` inside, in the chroot `root` when given."""
        if not self._process:
            raise TestbedError("The namespace is not started: call start() first.")
        at = f"/proc/{self._process.pid}/ns"
        inside = ["chroot", str(root)] if root else []
        return ["nsenter", f"--mount={at}/mnt", f"--pid={at}/pid_for_children", "--", *inside, *arguments]

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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
