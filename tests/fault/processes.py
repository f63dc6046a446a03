"""Our processes, which may also be held still while something happens around them."""

import os
import signal
import subprocess
import time
from pathlib import Path

from integration.system.programs import Program

STOP_SECONDS = 10.0


class Process(Program):
    """A Program that can be stopped and let go on: what happens meanwhile happens in the midst of its work."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def hold(self) -> None:
        """Stop it; returns when no thread of it runs any more."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_SECONDS
        while any(state not in "TtZX" for state in self._states()):
            assert time.monotonic() < deadline, f"process {self.pid} does not stop"
            time.sleep(0.001)

    def go_on(self) -> None:
        """Let it go on; returns when its first thread, which signals are meant for, waits for them again."""
        if not self.runs:
            return
        os.kill(self.pid, signal.SIGCONT)
        deadline = time.monotonic() + STOP_SECONDS
        first = Path(f"/proc/{self.pid}/stat")
        while self.runs and first.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, f"process {self.pid} does not go on"
            time.sleep(0.001)

    def kill(self) -> None:
        """SIGKILL; one that hangs in a dead file system is waited for later."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def children(self, program: str) -> list[int]:
        """Return the PIDs of its children that run this program."""
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        children = [child for thread in threads for child in _read(thread / "children").split()]
        return [int(child) for child in children if _read(Path(f"/proc/{child}/comm")).strip() == program]

    def _states(self) -> list[str]:
        found = []
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                found.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
            except OSError:
                continue
        return found

    def ask_to_end(self) -> None:
        """SIGTERM, as a kubelet sends it."""
        os.kill(self.pid, signal.SIGTERM)

    def wait_for_end(self, seconds: float) -> int:
        """Return the exit code. Raises: subprocess.TimeoutExpired."""
        assert self._process is not None
        return self._process.wait(seconds)

    def restart_as_kubelet(self, patience_seconds: float = 20.0) -> None:
        """Start it again when it has ended by itself; when it does not, end it, as a failed probe does."""
        assert self._process is not None
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self.start()


def _read(path: Path) -> str:
    """Return what a file of /proc says; nothing when its thread or process has just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
