"""proof.json: what the last proof of a set has found; lies beside the manifest, which is never changed."""

from typing import Literal

from pydantic import Field

from vmbackup.api.model import Report


class ProofFile(Report):
    """The last proof. Times are RFC 3339."""

    schema_version: Literal[1] = 1
    kind: Literal["Boot", "Scrub"]
    succeeded: bool
    broken: bool = Field(default=False, description="The images are not what the manifest says: never trust the set.")
    heartbeat: str = Field(default="", description="Boot: GuestAgent, SerialPattern, DiskActivity or None.")
    seconds: int = Field(default=0, description="Boot: from the start of the copy to the heartbeat.")
    evidence: str = Field(default="", description="Boot: the last lines of the serial console.")
    message: str = ""
    verified: str = Field(default="", description="None, Check or Checksum.")
    at: str
    node: str = ""
    restore: str = Field(default="", description="The VMRestore that did it: namespace/name.")
