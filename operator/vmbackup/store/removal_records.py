"""The agent's records of sets that are to be removed: <state>/removals/<uid>.json, durable before anybody is told."""

from collections.abc import Sequence
from pathlib import Path

from vmbackup.api.removal import Removal
from vmbackup.store.records import Records


class RemovalRecords:
    """All records of this node."""

    def __init__(self, state: Path) -> None:
        self._records = Records(state / "removals", Removal)

    def record(self, removal: Removal) -> None:
        """Raises: Failed: it could not be put on disk."""
        self._records.write(removal.uid, removal, f"{removal.key}: the removal of its set")

    def forget(self, uid: str) -> None:
        """Drop a record; one that stays is seen again, and then there is nothing to remove."""
        self._records.forget(uid)

    def removals(self) -> Sequence[Removal]:
        """Return all records; one that cannot be read is moved aside as `.broken` and logged."""
        return self._records.read()
