"""Events of events.k8s.io/v1 about our resources, written by one thread that nothing waits for.

The same thing said again within ten minutes becomes a series: a count instead of a new object.
"""

import logging
import queue
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from vmbackup.api import names
from vmbackup.api.vmbackup import ObjectMeta
from vmbackup.cluster.client import Body, Client
from vmbackup.cluster.errors import APIServerAway, NotFound
from vmbackup.cluster.resources import EVENT, VMBACKUP
from vmbackup.errors import VMBackupError

LONGEST_NOTE = 1024  # events.k8s.io refuses more
QUEUE_SIZE = 500
REMEMBERED = 2000
SAME_SECONDS = 600.0
TRIES_MAX = 12  # as client-go's recorder does, with the rest below
TRY_AGAIN_SECONDS = 10.0
SERIES_SECONDS = 30.0  # a series is written at most so often
CLUSTER_NAMESPACE = "default"  # where Events of cluster-scoped objects go

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Happening:
    """Something that people may want to see in `kubectl describe`."""

    kind: str
    metadata: ObjectMeta
    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.metadata.uid, self.reason, self.note


@dataclass
class _Told:
    path: str
    at: float
    written_at: float
    count: int = 1


class Recorder:
    """Records Events. Never blocks and never raises; when too many wait, the newest are dropped and counted."""

    def __init__(self, client: Client, *, component: str, instance: str) -> None:
        self._client = client
        self._component = component
        self._instance = instance[:128]
        self._queue: queue.Queue[Happening | None] = queue.Queue(QUEUE_SIZE)
        self._told: OrderedDict[tuple[str, str, str], _Told] = OrderedDict()
        self._dropped = 0
        self._stopping = threading.Event()
        self._writer = threading.Thread(target=self._write, name="event-writer", daemon=True)

    def start(self) -> None:
        self._writer.start()

    def stop(self, timeout_seconds: float) -> None:
        """Write what waits, as long as the time allows."""
        self._stopping.set()
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._writer.join(timeout_seconds)

    def record(self, happening: Happening) -> None:
        try:
            self._queue.put_nowait(happening)
        except queue.Full:
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:  # at 1, 2, 4, 8 …
                log.warning("%d Events dropped: the API server does not take them fast enough", self._dropped)

    def _write(self) -> None:
        while (happening := self._queue.get()) is not None:
            try:
                self._tell_at_last(happening)
            except VMBackupError as error:
                words = "Event %s for %s not written: %s"
                log.warning(words, happening.reason, happening.metadata.name, error, extra=_about(happening))
            except Exception:
                words = "Event %s for %s not written"
                log.exception(words, happening.reason, happening.metadata.name, extra=_about(happening))

    def _tell_at_last(self, happening: Happening) -> None:
        """Tell, in spite of an API server that is away for a while. Raises: as `_tell`."""
        for _ in range(TRIES_MAX - 1):
            try:
                self._tell(happening)
            except APIServerAway:
                if self._stopping.wait(TRY_AGAIN_SECONDS):
                    break
            else:
                return
        self._tell(happening)

    def _tell(self, happening: Happening) -> None:
        """Raises: APIServerAway, Denied."""
        now = time.time()
        told = self._told.get(happening.key)
        if told is None or now - told.at > SAME_SECONDS:
            self._tell_new(happening, now)
            return
        told.at = now
        told.count += 1
        if now - told.written_at >= SERIES_SECONDS:
            series = {"series": {"count": told.count, "lastObservedTime": _micro_time(now)}}
            try:
                self._client.patch(told.path, series)
            except NotFound:  # Events live for an hour by default
                self._tell_new(happening, now)
            else:
                told.written_at = now

    def _tell_new(self, happening: Happening, now: float) -> None:
        namespace = happening.metadata.namespace or CLUSTER_NAMESPACE
        name = f"{happening.metadata.name[:200]}.{uuid.uuid4().hex[:16]}"
        self._client.create(EVENT.collection(namespace), self._event(happening, namespace, name, now))
        self._told[happening.key] = _Told(EVENT.path(name, namespace), now, now)
        self._told.move_to_end(happening.key)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def _event(self, happening: Happening, namespace: str, name: str, now: float) -> Body:
        note = happening.note
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _micro_time(now),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": happening.action,
            "reason": happening.reason,
            "type": happening.type,
            "note": note
            if len(note.encode()) <= LONGEST_NOTE
            else note.encode()[:LONGEST_NOTE].decode(errors="ignore"),
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": happening.kind,
                "name": happening.metadata.name,
                "namespace": happening.metadata.namespace,
                "uid": happening.metadata.uid,
            },
        }


def _micro_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _about(happening: Happening) -> dict[str, str]:
    """Return what a line of the log is about."""
    metadata = happening.metadata
    backup = {"backup": f"{metadata.namespace}/{metadata.name}", "uid": metadata.uid}
    return backup if happening.kind == VMBACKUP.name else {}
