"""One pass over everything: what is there, what should be, and the writes in between."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal

from vmbackup.api import names
from vmbackup.api.conditions import ConditionType, find
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import Conflict
from vmbackup.cluster.resources import LOCATION, VMBACKUP
from vmbackup.controller.cache import Finished
from vmbackup.controller.measures import Measures
from vmbackup.controller.writer import Writer
from vmbackup.core.location_report import location_status, same_but_for_bytes
from vmbackup.core.samples import Ending, ending
from vmbackup.core.turn_report import seen, status_of_turn
from vmbackup.core.turns import MISSING, Abandon, Bind, Limits, Lost, Refuse, Scene, Turn, Wait, plan_turns

SPACE_SECONDS = 30.0  # figures of free space alone are written at most so often

log = logging.getLogger(__name__)


class Reconciler:
    """Brings the cluster to what the plan says. `live_nodes` returns the nodes whose agent is heard of."""

    def __init__(
        self,
        writer: Writer,
        live_nodes: Callable[[], frozenset[str]],
        limits: Limits,
        measures: Measures,
    ) -> None:
        self._writer = writer
        self._cache = writer.cache
        self._resources = writer.resources
        self._live_nodes = live_nodes
        self._limits = limits
        self._measures = measures
        self._missing_since: dict[str, float] = {}
        self._space_written_at: dict[str, float] = {}
        self._told: dict[str, tuple[str, ...]] = {}

    def reconcile(self, now: float) -> None:
        """Take one pass. Raises: APIServerAway: nothing can be done now."""
        scene = Scene(
            backups=self._cache.backups(),
            hosts=self._cache.hosts(),
            locations=self._cache.locations(),
            namespaces=self._cache.namespaces(),
            live_nodes=self._live_nodes(),
            missing_since=self._missing_since,
            vmis=self._cache.vmis(),
        )
        turns = plan_turns(scene, self._limits, now)
        self._remember_missing(turns, now)
        for turn in self._news(turns):
            self._writer.write(VMBACKUP, turn.backup.metadata, partial(self._take, turn, now))
        for finished in self._cache.finished():
            self._tidy(finished, now)
        for location in scene.locations.values():
            self._gather(location, scene, now)

    def _remember_missing(self, turns: list[Turn], now: float) -> None:
        missing = {turn.backup.metadata.uid for turn in turns if isinstance(turn, Wait) and turn.reason in MISSING}
        self._missing_since = {uid: self._missing_since.get(uid, now) for uid in missing}

    def _news(self, turns: list[Turn]) -> list[Turn]:
        """Leave out what was told of the same version already: a long queue costs nothing while it waits."""
        words = {turn.backup.metadata.uid: _words(turn) for turn in turns}
        self._told = {uid: told for uid, told in self._told.items() if words.get(uid) == told}
        return [turn for turn in turns if turn.backup.metadata.uid not in self._told]

    def _take(self, turn: Turn, now: float, body: Body) -> None:
        backup = turn.backup
        if isinstance(turn, Refuse) and backup.metadata.deletion_timestamp:
            self._release(body)
            return
        if isinstance(turn, Abandon):
            log.warning("%s: abandoned: %s", backup.key, turn.message)
            self._writer.tell(VMBACKUP, backup.metadata, "Warning", ("Abandoned", "Release", turn.message))
            self._close(ending(backup), body)
            return
        if isinstance(turn, Bind):
            # The finalizer comes first: nothing may vanish while a VM is on its way home.
            body = self._writer.wrote(VMBACKUP, self._resources.add_finalizer(VMBACKUP, body))
        written = self._resources.patch_status(VMBACKUP, body, status_of_turn(turn, now))
        if isinstance(turn, Wait | Lost):
            self._told[backup.metadata.uid] = _words(turn)
        if written is body:
            return
        self._writer.wrote(VMBACKUP, written)
        self._say(turn, written)

    def _say(self, turn: Turn, written: Body) -> None:
        """Say what was written: to the log, as an Event and in the metrics."""
        backup = turn.backup
        match turn:
            case Bind(node=node):
                log.info("%s: assigned to node %s", backup.key, node)
                self._measures.begun(backup.metadata.namespace)
                self._writer.tell(
                    VMBACKUP, backup.metadata, "Normal", ("Assigned", "Bind", f"Assigned to node {node}.")
                )
            case Refuse(reason=reason, message=message):
                log.info("%s: ended before it began: %s: %s", backup.key, reason, message)
                if names.FINALIZER not in backup.metadata.finalizers:  # else it is counted when that goes
                    self._measures.ended(ending(VMBackup.parse(written)))
                self._writer.tell(VMBACKUP, backup.metadata, "Warning", (reason, "Refuse", message))
            case Lost(message=message):
                log.warning("%s: %s", backup.key, message)
                self._writer.tell(VMBACKUP, backup.metadata, "Warning", ("NodeLost", "Watch", message))
            case Wait(reason=reason, message=message):
                self._measures.begun(backup.metadata.namespace)
                log.info("%s: %s: %s", backup.key, reason, message)

    def _tidy(self, finished: Finished, now: float) -> None:
        """Let a finished backup go: its finalizer at once, the resource when its time is over. Until then, see it."""
        if finished.held:
            self._writer.write(VMBACKUP, finished.metadata, partial(self._close, finished.end))
        elif finished.expires_at is not None and now >= finished.expires_at:
            self._writer.write(VMBACKUP, finished.metadata, self._expire)
        elif finished.changed and not finished.metadata.deletion_timestamp:
            self._writer.write(VMBACKUP, finished.metadata, self._see)

    def _close(self, end: Ending, body: Body) -> None:
        """Release a backup that ended, and count it: the one write that is done once, whoever leads and restarts."""
        if self._release(body):
            self._measures.ended(end)

    def _release(self, body: Body) -> bool:
        """Take our finalizer away; return whether it was there."""
        written = self._resources.remove_finalizer(VMBACKUP, body)
        if written is body:
            return False
        self._writer.wrote(VMBACKUP, written)
        return True

    def _expire(self, body: Body) -> None:
        metadata = body["metadata"]
        left = self._resources.delete(VMBACKUP, body)
        if left is None:
            self._cache.drop(VMBACKUP, metadata["uid"])
        else:
            self._cache.put(VMBACKUP, left)  # a finalizer keeps it; the watch may have told of the deletion already
        log.info("%s/%s: removed, ttlSecondsAfterFinished is over", metadata["namespace"], metadata["name"])

    def _see(self, known: Body) -> None:
        """Note in the status of a finished backup that its spec was looked at: a cancellation that came too late."""
        metadata = known["metadata"]
        body = self._resources.get(VMBACKUP, metadata["name"], metadata["namespace"])
        backup = VMBackup.parse(body)
        if backup.metadata.uid != metadata["uid"]:
            raise Conflict(f"{backup.key}: another VMBackup has taken its name")
        if backup.finished:
            body = self._resources.patch_status(VMBACKUP, body, seen(backup.status, backup.metadata.generation))
            log.info("%s: changed after it had ended; nothing comes of that", backup.key)
        self._writer.wrote(VMBACKUP, body)

    def _gather(self, location: VMBackupLocation, scene: Scene, now: float) -> None:
        status = location_status(location, scene.hosts, scene.live_nodes, now)
        name, before = location.metadata.name, location.status
        rested = now - self._space_written_at.get(name, 0.0) >= SPACE_SECONDS
        if status == before or (same_but_for_bytes(status, before) and not rested):
            return

        def write(body: Body) -> None:
            self._writer.wrote(LOCATION, self._resources.patch_status(LOCATION, body, status))
            self._space_written_at[name] = now
            new, old = find(status.conditions, ConditionType.READY), find(before.conditions, ConditionType.READY)
            first_look = old is None and new is not None and new.status != "True"  # agents need a moment
            if new is not None and not first_look and (old is None or old.status != new.status):
                kind: Literal["Normal", "Warning"] = "Normal" if new.status == "True" else "Warning"
                log.info("location %s: %s: %s", name, new.reason, new.message)
                self._writer.tell(LOCATION, location.metadata, kind, (new.reason, "Gather", new.message))

        self._writer.write(LOCATION, location.metadata, write)


def _words(turn: Turn) -> tuple[str, ...]:
    """Return what a turn says, and of which version of the backup."""
    reason, message = getattr(turn, "reason", ""), getattr(turn, "message", "")
    return type(turn).__name__, reason, message, turn.backup.metadata.resource_version
