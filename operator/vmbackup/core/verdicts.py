"""What comes of looking for a VM."""

from dataclasses import dataclass

from vmbackup.api.conditions import Reason


@dataclass(frozen=True)
class Found:
    """One VM on one node."""

    node: str
    uuid: str
    running: bool


@dataclass(frozen=True)
class NotFound:
    """No VM that can be backed up. `final`: looking again will not help."""

    reason: Reason
    message: str
    final: bool = False
