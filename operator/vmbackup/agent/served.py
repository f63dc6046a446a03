"""One backup that a thread works on."""

import threading
from dataclasses import dataclass, field

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase, VMBackup


@dataclass
class Served:
    """One backup that a thread works on. `latest`: what the watch has said of it meanwhile; `gone`: that it is gone.

    `nameless`: a rescue that knows the UID only.
    """

    uid: str
    latest: VMBackup | None = None
    gone: bool = False
    nameless: bool = False
    woken: threading.Event = field(default_factory=threading.Event)

    def pause(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


def needs_us(run: Run) -> bool:
    """Return whether a VM must not be left alone in this state: frozen, about to be touched, or on our overlay."""
    return run.on_overlay or run.maybe_frozen or run.phase in (Phase.STARTING, Phase.SNAPSHOTTING)
