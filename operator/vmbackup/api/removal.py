"""A set that is to be removed: the agent's record, on disk before the VMBackup may go."""

from typing import Literal

from pydantic import Field

from vmbackup.api.model import Document


class Removal(Document):
    """One set to remove, found by what its manifest says. Times are seconds since the epoch."""

    schema_version: Literal[1] = 1
    uid: str = Field(description="UID of the VMBackup that is deleted.")
    set_uid: str = Field(description="UID in the manifest: the same, or the one of the VMBackup that was imported.")
    namespace: str
    name: str
    vm: str
    location: str
    location_path: str
    spare_last: bool = Field(default=False, description="Decided by retention: never the last good set of the VM.")
    since: float
    trouble: str = Field(default="", description="What the last try said.")

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"
