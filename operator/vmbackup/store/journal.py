"""The node journal: one JSON file per run, durable before anything is done to a VM; one lock per VM.

<state>/runs/<uid>.json    <state>/locks/<domain uuid>.lock
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.errors import Failed, NotYet
from vmbackup.store.records import Records, look, plain_name


class NodeJournal:
    """The Journal port on disk. Threads of different VMs may use one journal."""

    def __init__(self, state: Path) -> None:
        self._records = Records(_runs(state), Run)
        self._locks = state / "locks"
        self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def broken(self) -> list[Path]:
        """What could not be read at the last look."""
        return self._records.broken

    def record(self, run: Run) -> None:
        """Raises: Failed: the record could not be put on disk; nothing may be done to the VM."""
        self._records.write(run.uid, run, f"VM {run.domain}")

    def forget(self, run: Run) -> None:
        """Remove the record of a finished run."""
        self._records.forget(run.uid)

    def runs(self) -> Sequence[Run]:
        """Return all records. One that cannot be read is moved aside as `.broken` and logged: it needs a human."""
        return self._records.read()

    @contextmanager
    def lock(self, domain_uuid: str) -> Iterator[None]:
        """Hold the VM for one worker of this node, in this process or another; freed by the kernel when we die.

        Raises: NotYet: somebody else holds it. Failed: the lock file cannot be made.
        """
        with self._held(domain_uuid, f"another backup of the VM {domain_uuid} is under way"):
            yield

    @contextmanager
    def sole(self) -> Iterator[None]:
        """Be the one agent that works with this journal; freed by the kernel when we die.

        Raises: NotYet: another agent is.
        """
        with self._held("agent", "another agent of this node works"):
            yield

    @contextmanager
    def _held(self, name: str, taken: str) -> Iterator[None]:
        path = self._locks / f"{plain_name(name)}.lock"
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            words = f"the lock {path} cannot be made ({error.strerror}); free space there"
            raise Failed(Reason.STORE_ERROR, words, heals=True) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):  # the number is for people only: no disk that is full keeps a VM from its lock
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).decode("ascii", "replace").strip()
            os.close(file)
            raise NotYet(Reason.FOREIGN_JOB, f"{taken} in process {holder or 'unknown'}; wait for it") from None
        try:
            yield
        finally:
            os.close(file)


def read_runs(state: Path) -> tuple[tuple[Run, ...], tuple[Path, ...]]:
    """Return all records and the files that are none, for those who only look. Changes nothing."""
    found, unreadable = look(_runs(state), Run)
    return found, (*unreadable, *sorted(_runs(state).glob("*.broken")))


def _runs(state: Path) -> Path:
    return state / "runs"
