"""The agent's records of sets that are to be removed: <state>/removals/<uid>.json, durable before anybody is told."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.removal import Removal
from vmbackup.errors import Failed
from vmbackup.store.journal import plain_name, sync_directory

_log = logging.getLogger(__name__)


class RemovalRecords:
    """All records of this node. Few and small, as the journal's."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "removals"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, removal: Removal) -> None:
        """Raises: Failed: it could not be put on disk."""
        path = self._path(removal.uid)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(removal.model_dump_json(by_alias=True, indent=1).encode())
                stream.flush()
                os.fsync(stream.fileno())
            fresh.rename(path)
            sync_directory(self._directory)
        except OSError as error:
            raise Failed(
                Reason.STORE_ERROR,
                f"{removal.key}: the removal of its set cannot be recorded in {path} ({error.strerror}); free space "
                "there",
                heals=True,
            ) from error

    def forget(self, uid: str) -> None:
        """Drop a record; one that stays is seen again, and then there is nothing to remove."""
        try:
            self._path(uid).unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError as error:
            _log.error("the record of the removal %s cannot be removed: %s", uid, error)

    def removals(self) -> Sequence[Removal]:
        """Return all records; one that cannot be read is moved aside as `.broken` and logged."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(Removal.model_validate_json(path.read_bytes()))
            except FileNotFoundError:
                continue
            except ValidationError as error:
                path.rename(path.with_suffix(".broken"))
                _log.error("%s is no record of a removal, it was moved aside: %s", path, error)
            except OSError as error:
                _log.error("%s cannot be read: %s", path, error)
        return found

    def _path(self, uid: str) -> Path:
        return self._directory / f"{plain_name(uid)}.json"
