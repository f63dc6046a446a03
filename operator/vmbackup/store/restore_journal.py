"""The journal of restores: <state>/restores/<uid>.json, beside the runs of backups and with the same promises."""

from collections.abc import Sequence
from pathlib import Path

from vmbackup.api.restore_journal import RestoreRun
from vmbackup.store.records import Records, look


class RestoreRecords:
    """The RestoreJournal port on disk."""

    def __init__(self, state: Path) -> None:
        self._records = Records(_place(state), RestoreRun)

    def record(self, run: RestoreRun) -> None:
        """Raises: Failed: the record could not be put on disk; nothing may be done."""
        self._records.write(run.uid, run, f"restore {run.key}")

    def forget(self, run: RestoreRun) -> None:
        """Remove the record of a finished restore."""
        self._records.forget(run.uid)

    def runs(self) -> Sequence[RestoreRun]:
        """Return all records. One that cannot be read is moved aside as `.broken` and logged: it needs a human."""
        return self._records.read()


def read_restores(state: Path) -> tuple[tuple[RestoreRun, ...], tuple[Path, ...]]:
    """Return all records and the files that are none, for those who only look. Changes nothing."""
    found, unreadable = look(_place(state), RestoreRun)
    return found, (*unreadable, *sorted(_place(state).glob("*.broken")))


def _place(state: Path) -> Path:
    return state / "restores"
