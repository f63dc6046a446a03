"""Writing to one object at a time: its troubles must not keep the others waiting."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from vmbackup.api.vmbackup import ObjectMeta, Phase, VMBackup
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import APIServerAway, Conflict, Denied, NotFound
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.resources import Kind, Resources
from vmbackup.controller.cache import Cache, Finished, Model
from vmbackup.door.logs import about, of_backup

DENIED_SECONDS = 5.0  # rest after a write was forbidden; a restarted API server forbids all for a moment
FAULT_SECONDS = 30.0  # rest after a fault of ours with one object

log = logging.getLogger(__name__)


class Writer:
    """Every write is a compare-and-swap on what was decided on. Who loses reads again and decides again."""

    def __init__(self, cache: Cache, resources: Resources, recorder: Recorder) -> None:
        self.cache = cache
        self.resources = resources
        self._recorder = recorder
        self._resting_until: dict[str, float] = {}

    def write(self, kind: Kind, metadata: ObjectMeta, act: Callable[[Body], None]) -> bool:
        """Let `act` write to one object; return whether it did so without trouble. Raises: APIServerAway."""
        entry = self.cache.entry(kind, metadata.uid)
        if entry is None or self._resting_until.get(metadata.uid, 0.0) > time.monotonic():
            return False
        self._resting_until.pop(metadata.uid, None)
        try:
            with about(_fields(entry.model)):
                act(entry.body)
        except Conflict as conflict:
            log.debug("%s", conflict)
            self._read_again(kind, metadata)
        except NotFound:
            self.cache.drop(kind, metadata.uid)
        except Denied as denied:
            log.error("%s", denied)  # noqa: TRY400 - the server's words say it all
            self._resting_until[metadata.uid] = time.monotonic() + DENIED_SECONDS
        except APIServerAway:
            raise
        except Exception:
            log.exception("%s %s: unforeseen fault", kind.name, metadata.name)
            self._resting_until[metadata.uid] = time.monotonic() + FAULT_SECONDS
        else:
            return True
        return False

    def wrote(self, kind: Kind, body: Body) -> Body:
        """Note our own write at once: the watch is behind it."""
        if body["metadata"].get("deletionTimestamp") and not body["metadata"].get("finalizers"):
            self.cache.drop(kind, body["metadata"]["uid"])
        else:
            self.cache.put(kind, body)
        return body

    def delete(self, kind: Kind, body: Body) -> None:
        """Delete an object exactly as it was read. Raises: as Resources.delete."""
        left = self.resources.delete(kind, body, unchanged=True)
        if left is None:
            self.cache.drop(kind, body["metadata"]["uid"])
        else:
            self.cache.put(kind, left)  # not dropped: the watch may have told of the deletion already

    def tell(
        self, kind: Kind, metadata: ObjectMeta, type_: Literal["Normal", "Warning"], what: tuple[str, str, str]
    ) -> None:
        """Record an Event; `what` is reason, action and note."""
        reason, action, note = what
        self._recorder.record(Happening(kind.name, metadata, type_, reason, action, note))

    def _read_again(self, kind: Kind, metadata: ObjectMeta) -> None:
        try:
            body = self.resources.get(kind, metadata.name, metadata.namespace)
        except NotFound:
            self.cache.drop(kind, metadata.uid)
            return
        if body["metadata"]["uid"] != metadata.uid:
            self.cache.drop(kind, metadata.uid)
        self.cache.put(kind, body)


def _fields(model: Model) -> dict[str, str]:
    """Return what the log says of an object."""
    if isinstance(model, VMBackup):
        return of_backup(model)
    if isinstance(model, Finished):
        namespace, vm = model.end.vm
        phase = str(Phase.DONE)
        return {"backup": f"{namespace}/{model.metadata.name}", "uid": model.metadata.uid, "vm": vm, "phase": phase}
    return {}
