"""Records of the node: one JSON file each, named by a UID, durable before anything is done that it tells of."""

import logging
import os
import re
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}")
_log = logging.getLogger(__name__)
Record = TypeVar("Record", bound=BaseModel)


class Records(Generic[Record]):
    """All records of one kind: few, small, readable by people. `broken`: what could not be read at the last look."""

    def __init__(self, directory: Path, model: type[Record]) -> None:
        self._directory, self._model = directory, model
        self._kind = model.__name__
        self.broken: list[Path] = []
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, uid: str, record: Record, whose: str) -> None:
        """Raises: Failed: it could not be put on disk; what it tells of may not be done."""
        path = self._path(uid)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(record.model_dump_json(by_alias=True, indent=1).encode())
                stream.flush()
                os.fsync(stream.fileno())
            fresh.rename(path)
            sync_directory(self._directory)
        except OSError as error:
            raise Failed(
                Reason.STORE_ERROR,
                f"{whose}: the node journal {path} cannot be written ({error.strerror}); free space there",
                heals=True,
            ) from error

    def forget(self, uid: str) -> None:
        """Remove a record. One that stays is seen again at the next start, finished: so it is only logged."""
        try:
            self._path(uid).unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError as error:
            _log.error("the record of the finished %s %s cannot be removed: %s", self._kind, uid, error)

    def read(self) -> tuple[Record, ...]:
        """Return all records. One that cannot be read is moved aside as `.broken` and logged: it needs a human."""
        found, unreadable = look(self._directory, self._model)
        self.broken = sorted(self._directory.glob("*.broken"))
        for path, error in unreadable.items():
            if isinstance(error, OSError):
                self.broken.append(path)
                _log.error("%s cannot be read: %s", path, error)
                continue
            aside = path.with_suffix(".broken")
            path.rename(aside)
            self.broken.append(aside)
            _log.error("%s is no record of a %s, it was moved aside to %s: %s", path, self._kind, aside.name, error)
        return found

    def _path(self, uid: str) -> Path:
        return self._directory / f"{plain_name(uid)}.json"


def look(directory: Path, model: type[Record]) -> tuple[tuple[Record, ...], dict[Path, Exception]]:
    """Return all records and the files that are none, with why. Changes nothing."""
    found: list[Record] = []
    unreadable: dict[Path, Exception] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(model.model_validate_json(path.read_bytes()))
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
