"""Copies and verifications that run beside us: one thread each, which may have a child process."""

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Literal, Protocol

from vmbackup.api.conditions import Reason
from vmbackup.core.facts import Work
from vmbackup.core.ports import Wake
from vmbackup.errors import Failed, VMBackupError
from vmbackup.units import MIB

STOP_SECONDS = 10.0
READ_BYTES = MIB  # at a time: the C library keeps what a thread once used, 16 MiB for each of many threads with 8 MiB
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    stored_bytes: int
    sha256: str = ""


class Stopped(Exception):  # noqa: N818 - not an error: it was asked for
    """The task was told to stop."""


class Task:
    """One work. The body runs in the task's own thread and looks at `check` between its pieces.

    place: where it works, for errors that name no file.
    """

    def __init__(self, kind: Literal["copy", "verify"], name: str, place: str) -> None:
        self.kind = kind
        self.name = name
        self._place = place
        self.bytes_done = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._result: Result | None = None
        self._error = ""

    def start(self, body: Callable[["Task"], Result], ended: Wake) -> None:
        # In the context of the caller: what is logged says which backup it is about.
        arguments = (self._run, body, ended)
        self._thread = threading.Thread(target=copy_context().run, args=arguments, name=self.name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises: Stopped: the work is not wanted any more."""
        if self._stopping.is_set():
            raise Stopped

    def rest(self, seconds: float) -> None:
        """Wait, but not longer than until the stop.

        Raises: Stopped: the work is not wanted any more.
        """
        self._stopping.wait(seconds)
        self.check()

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Take note of the child; one that is born after the stop dies at once."""
        with self._lock:
            self.process = process
            if self._stopping.is_set():
                process.kill()

    def ask_to_stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self.process is not None:
                self.process.kill()

    def join(self, seconds: float) -> bool:
        """Wait for the end; return whether it came."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))
            return not self._thread.is_alive()
        return True

    def facts(self) -> Work:
        if self._error:
            return Work(self.kind, "failed", self.bytes_done, error=self._error)
        if self._result is None:
            return Work(self.kind, "running", self.bytes_done)
        stored_bytes = self._result.stored_bytes
        return Work(self.kind, "done", self.bytes_done, stored_bytes=stored_bytes, sha256=self._result.sha256)

    def _run(self, body: Callable[["Task"], Result], ended: Wake) -> None:
        try:
            self._result = body(self)
        except Stopped:
            self._error = "it was stopped"
        except VMBackupError as error:
            self._error = error.message
        except OSError as error:
            self._error = f"{self._place}: {error.strerror or repr(error)}"
        except Exception as error:
            _log.exception("%s ended by a fault of ours", self.name)
            self._error = f"{self.name}: {error!r}"
        finally:
            ended()


class Owner(Protocol):
    """Whose works they are: a run of a backup or of a restore."""

    @property
    def uid(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def location_path(self) -> str: ...


class Works:
    """The tasks of all runs, by run, attempt and disk target."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._tasks: dict[tuple[str, int, str], Task] = {}

    def start(
        self, run: Owner, target: str, kind: Literal["copy", "verify"], body: Callable[[Task], Result], place: str = ""
    ) -> None:
        """Start a task for one disk. One of the same kind that still runs is left alone.

        place: where it works, for errors that name no file; by default the location.
        """
        key = (run.uid, run.attempt, target)
        with self._lock:
            old = self._tasks.get(key)
            if old is not None and old.facts().state == "running":
                if old.kind == kind:
                    return
                raise Failed(Reason.STORE_ERROR, f"{run.key}, disk {target}: a {old.kind} runs already")
            task = self._tasks[key] = Task(kind, f"{kind} {run.key} {target}", place or run.location_path)
            task.start(body, self._wake)

    def facts(self, run: Owner) -> dict[str, Work]:
        with self._lock:
            mine = {key[2]: task for key, task in self._tasks.items() if key[:2] == (run.uid, run.attempt)}
        return {target: task.facts() for target, task in mine.items()}

    def stop(self, run: Owner) -> None:
        """Stop and forget all tasks of a run. One that does not end is left behind: the VM must not wait for it."""
        with self._lock:
            keys = [key for key in self._tasks if key[0] == run.uid]
            tasks = [self._tasks.pop(key) for key in keys]
        for task in tasks:
            task.ask_to_stop()
        until = time.monotonic() + STOP_SECONDS
        for task in tasks:
            if not task.join(until - time.monotonic()):
                _log.warning("%s hangs in its file system and was left behind", task.name)
