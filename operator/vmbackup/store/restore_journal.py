"""The journal of restores: <state>/restores/<uid>.json, beside the runs of backups and with the same promises."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.errors import Failed
from vmbackup.store.journal import plain_name, sync_directory

_log = logging.getLogger(__name__)


def read_restores(state: Path) -> tuple[tuple[RestoreRun, ...], tuple[Path, ...]]:
    """Return all records and the files that are none, for those who only look. Changes nothing."""
    found, unreadable = [], sorted((state / "restores").glob("*.broken"))
    for path in sorted((state / "restores").glob("*.json")):
        try:
            found.append(RestoreRun.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            continue
        except (ValidationError, OSError):
            unreadable.append(path)
    return tuple(found), tuple(unreadable)


class RestoreRecords:
    """The RestoreJournal port on disk."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "restores"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def record(self, run: RestoreRun) -> None:
        """Raises: Failed: the record could not be put on disk; nothing may be done."""
        path = self._path(run)
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(run.model_dump_json(by_alias=True, indent=1).encode())
                stream.flush()
                os.fsync(stream.fileno())
            fresh.rename(path)
            sync_directory(self._directory)
        except OSError as error:
            raise Failed(
                Reason.STORE_ERROR,
                f"restore {run.key}: the node journal {path} cannot be written ({error.strerror}); free space there",
                heals=True,
            ) from error

    def forget(self, run: RestoreRun) -> None:
        """Remove the record. One that stays is seen again at the next start, finished: so it is only logged."""
        try:
            self._path(run).unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError as error:
            _log.error("the record of the finished restore %s cannot be removed: %s", run.uid, error)

    def runs(self) -> Sequence[RestoreRun]:
        """Return all records. One that cannot be read is moved aside as `.broken` and logged: it needs a human."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                found.append(RestoreRun.model_validate_json(path.read_bytes()))
            except FileNotFoundError:
                continue
            except ValidationError as error:
                path.rename(path.with_suffix(".broken"))
                _log.error("%s is no record of a restore, it was moved aside: %s", path, error)
            except OSError as error:
                _log.error("%s cannot be read: %s", path, error)
        return found

    def _path(self, run: RestoreRun) -> Path:
        return self._directory / f"{plain_name(run.uid)}.json"
