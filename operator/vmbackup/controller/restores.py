"""VMRestores, as far as the controller is concerned: binding, finalizers, end of life."""

import logging
from collections.abc import Callable
from functools import partial

from vmbackup.api import names
from vmbackup.api.restore import VMRestore
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import VMRESTORE
from vmbackup.controller.measures import Measures
from vmbackup.controller.writer import Writer
from vmbackup.core.kstatus import epoch
from vmbackup.core.restore_turns import (
    Abandon,
    Bind,
    KnownBackup,
    Refuse,
    RestoreScene,
    Turn,
    plan_restores,
    status_of_restore_turn,
)
from vmbackup.core.turns import Limits

log = logging.getLogger(__name__)


class Restores:
    """Brings VMRestores to what the plan says. `live_nodes`: the nodes whose agent is heard of."""

    def __init__(
        self, writer: Writer, live_nodes: Callable[[], frozenset[str]], limits: Limits, measures: Measures
    ) -> None:
        self._writer, self._live_nodes, self._limits, self._measures = writer, live_nodes, limits, measures

    def reconcile(self, now: float) -> None:
        """Take one pass. Raises: APIServerAway."""
        cache = self._writer.cache
        restores = cache.restores()
        if not restores:
            return
        scene = RestoreScene(
            restores=restores,
            backups=self._backups(),
            hosts=cache.hosts(),
            locations=cache.locations(),
            namespaces=cache.namespaces(),
            live_nodes=self._live_nodes(),
        )
        for turn in plan_restores(scene, self._limits, now):
            self._writer.write(VMRESTORE, turn.restore.metadata, partial(self._take, turn, now))
        for restore in restores:
            if restore.finished:
                self._tidy(restore, now)

    def _backups(self) -> dict[tuple[str, str], KnownBackup]:
        cache = self._writer.cache
        known = {
            (finished.metadata.namespace, finished.metadata.name): KnownBackup(
                finished.child.vm, finished.child.location, finished.fate.node
            )
            for finished in cache.finished()
        }
        for backup in cache.backups():
            metadata, spec = backup.metadata, backup.spec
            known[metadata.namespace, metadata.name] = KnownBackup(spec.source.name, spec.location, backup.status.node)
        return known

    def _take(self, turn: Turn, now: float, body: Body) -> None:
        restore, resources = turn.restore, self._writer.resources
        if isinstance(turn, Abandon):
            log.warning("%s: abandoned: %s", restore.key, turn.message)
            self._writer.tell(VMRESTORE, restore.metadata, "Warning", ("Abandoned", "Release", turn.message))
            self._close(restore, body)
            return
        if isinstance(turn, Refuse) and restore.metadata.deletion_timestamp:
            self._release(body)
            return
        if isinstance(turn, Bind):
            body = self._writer.wrote(VMRESTORE, resources.add_finalizer(VMRESTORE, body))
        written = resources.patch_status(VMRESTORE, body, status_of_restore_turn(turn, now))
        if written is body:
            return
        self._writer.wrote(VMRESTORE, written)
        match turn:
            case Bind(node=node):
                log.info("%s: assigned to node %s", restore.key, node)
                note = ("Assigned", "Bind", f"Assigned to node {node}.")
                self._writer.tell(VMRESTORE, restore.metadata, "Normal", note)
            case Refuse(reason=reason, message=message):
                log.info("%s: ended before it began: %s: %s", restore.key, reason, message)
                if names.FINALIZER not in restore.metadata.finalizers:  # else it is counted when that goes
                    self._measures.restored(VMRestore.parse(written))
                self._writer.tell(VMRESTORE, restore.metadata, "Warning", (reason, "Refuse", message))
            case _:
                log.info("%s: %s: %s", restore.key, turn.reason, turn.message)

    def _tidy(self, restore: VMRestore, now: float) -> None:
        """Let a finished restore go: its finalizer at once, the resource when its time is over."""
        ttl, ended = restore.spec.ttl_seconds_after_finished, restore.status.completion_time
        if names.FINALIZER in restore.metadata.finalizers:
            self._writer.write(VMRESTORE, restore.metadata, partial(self._close, restore))
        elif ttl is not None and ended and not restore.metadata.deletion_timestamp and now >= epoch(ended) + ttl:
            self._writer.write(VMRESTORE, restore.metadata, self._expire)

    def _close(self, restore: VMRestore, body: Body) -> None:
        """Release a restore that ended, and count it: the one write that is done once, whoever leads and restarts."""
        if self._release(body):
            self._measures.restored(restore)

    def _release(self, body: Body) -> bool:
        """Take our finalizer away; return whether it was there."""
        written = self._writer.resources.remove_finalizer(VMRESTORE, body)
        if written is body:
            return False
        self._writer.wrote(VMRESTORE, written)
        return True

    def _expire(self, body: Body) -> None:
        self._writer.delete(VMRESTORE, body)
        log.info(
            "%s/%s: removed, ttlSecondsAfterFinished is over", body["metadata"]["namespace"], body["metadata"]["name"]
        )
