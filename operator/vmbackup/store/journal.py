"""The node journal: one JSON file per run, durable before anything is done to a VM; one lock per VM.

<state>/runs/<uid>.json    <state>/locks/<domain uuid>.lock
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.errors import Failed, NotYet

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_log = logging.getLogger(__name__)


class NodeJournal:
    """The Journal port on disk. `broken` lists the records that could not be read at the last look.

    The records are few and small: all are kept readable by people. Threads of different VMs may use one journal.
    """

    def __init__(self, state: Path) -> None:
        self._runs = state / "runs"
        self._locks = state / "locks"
        self.broken: list[Path] = []
        for directory in (self._runs, self._locks):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, run: Run) -> None:
        """Raises: Failed: the record could not be put on disk; nothing may be done to the VM."""
        path = self._path(run)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(run.model_dump_json(by_alias=True, indent=1).encode())
                stream.flush()
                os.fsync(stream.fileno())
            fresh.rename(path)
            sync_directory(self._runs)
        except OSError as error:
            raise Failed(
                Reason.STORE_ERROR,
                f"VM {run.domain}: the node journal {path} cannot be written ({error.strerror}); free space there",
                heals=True,
            ) from error

    def forget(self, run: Run) -> None:
        """Remove the record. One that stays is seen again at the next start, finished: so it is only logged."""
        try:
            self._path(run).unlink(missing_ok=True)
            sync_directory(self._runs)
        except OSError as error:
            _log.error("the record of the finished run %s cannot be removed: %s", run.uid, error)

    def runs(self) -> Sequence[Run]:
        """Return all records. One that cannot be read is moved aside as `.broken` and logged: it needs a human."""
        found, unreadable = _read(self._runs)
        self.broken = sorted(self._runs.glob("*.broken"))
        for path, error in unreadable.items():
            if isinstance(error, OSError):
                self.broken.append(path)
                _log.error("%s cannot be read: %s", path, error)
                continue
            aside = path.with_suffix(".broken")
            path.rename(aside)
            self.broken.append(aside)
            _log.error("%s is no record of a run, it was moved aside to %s: %s", path, aside.name, error)
        return found

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

    def _path(self, run: Run) -> Path:
        return self._runs / f"{plain_name(run.uid)}.json"


def read_runs(state: Path) -> tuple[tuple[Run, ...], tuple[Path, ...]]:
    """Return all records and the files that are none, for those who only look. Changes nothing."""
    runs = state / "runs"
    found, unreadable = _read(runs)
    return found, (*unreadable, *sorted(runs.glob("*.broken")))


def _read(directory: Path) -> tuple[tuple[Run, ...], dict[Path, Exception]]:
    found: list[Run] = []
    unreadable: dict[Path, Exception] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(Run.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue  # its run has just ended
        except (ValidationError, OSError) as error:
            unreadable[path] = error
    return tuple(found), unreadable


def plain_name(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise Failed(Reason.STORE_ERROR, f"{name!r} is no UID: it cannot name a file of the journal")
    return name


def sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
