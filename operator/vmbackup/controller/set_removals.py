"""Sets that go with their VMBackups, as far as the controller is concerned: finalizers, hand-overs, and a bound."""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.vmbackup import ObjectMeta
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.controller.writer import Writer
from vmbackup.core.set_removal import Doomed, HandOver, Hold, LetGo, Move, Patience, Surroundings, doomed, removal_move

log = logging.getLogger(__name__)


class SetRemovals:
    """Brings the finalizers of sets to what they should be. `live_nodes`: the nodes whose agent is heard of."""

    def __init__(self, writer: Writer, live_nodes: Callable[[], frozenset[str]], patience: Patience) -> None:
        self._writer = writer
        self._live_nodes = live_nodes
        self._patience = patience

    def reconcile(self, now: float) -> None:
        """Take one pass. Raises: APIServerAway."""
        cache = self._writer.cache
        around = Surroundings(cache.hosts(), self._live_nodes(), cache.locations())
        for metadata, fate in self._fates():
            move = removal_move(fate, around, self._patience, now)
            if move is not None:
                self._writer.write(VMBACKUP, metadata, partial(self._do, metadata, move))

    def _fates(self) -> Iterator[tuple[ObjectMeta, Doomed]]:
        cache = self._writer.cache
        for finished in cache.finished():
            if finished.fate.wanted or finished.fate.held:
                yield finished.metadata, finished.fate
        for backup in cache.backups():
            fate = doomed(backup)
            if fate.wanted or fate.held:
                yield backup.metadata, fate

    def _do(self, metadata: ObjectMeta, move: Move, body: Body) -> None:
        resources, key = self._writer.resources, f"{metadata.namespace}/{metadata.name}"
        match move:
            case Hold():
                written = resources.add_finalizer(VMBACKUP, body, names.FINALIZER_SET)
            case HandOver(node=node):
                log.info("%s: node %s removes its set", key, node)
                written = resources.merge(VMBACKUP, body, {"status": {"node": node}}, "/status")
            case LetGo(left=left):
                if left:
                    log.warning("%s: let go: %s", key, left)
                    self._writer.tell(VMBACKUP, metadata, "Warning", (Reason.SET_LEFT, "Release", left))
                written = resources.remove_finalizer(VMBACKUP, body, names.FINALIZER_SET)
            case None:
                return
        if written is not body:
            self._writer.wrote(VMBACKUP, written)
