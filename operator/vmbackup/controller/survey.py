"""Looks by itself, from time to time: which agents are alive, and whether the watches miss anything.

kopf reports no deletion that happened while a watch was being renewed, and no silence of a watch. So every minute the
API server's own list is compared with the cache: what is not listed is forgotten, what stays unheard is a fault.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from vmbackup.cluster.errors import Denied, NotFound
from vmbackup.cluster.heartbeat import NodeWatch
from vmbackup.cluster.resources import LEASE, VMI, Kind, Resources
from vmbackup.controller.cache import OPTIONAL, WATCHED, Cache
from vmbackup.door.health import Health
from vmbackup.errors import VMBackupError

LEASES_SECONDS = 5.0
ASKED_SECONDS = 0.2  # the Lease may come a little later than the VMHost; many ask at once after a restart
COMPARE_SECONDS = 60.0
LOAD_RETRY_SECONDS = 2.0
KUBEVIRT_SECONDS = 5.0  # between two looks whether it has been installed

log = logging.getLogger(__name__)


class Survey:
    """Keeps `nodes` and the cache honest. `wake` is called when the set of live nodes changed."""

    def __init__(
        self, resources: Resources, cache: Cache, namespace: str, health: Health, wake: Callable[[], None]
    ) -> None:
        self._resources = resources
        self._cache = cache
        self._namespace = namespace
        self._health = health
        self._wake = wake
        self._nodes = NodeWatch()
        self._live: frozenset[str] = frozenset()
        self._unheard: dict[Kind, dict[str, str]] = {}
        self._loaded_at = float("-inf")
        self._kubevirt_said = ""
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survey", daemon=True)

    def live_nodes(self) -> frozenset[str]:
        return self._live

    def silences(self) -> dict[str, float]:
        """Return by node how many seconds ago its agent was last heard of."""
        return self._nodes.silences()

    def start(self) -> None:
        self._thread.start()

    def ask(self, node: str) -> None:
        """Look at the Leases soon when the agent of this node was silent: it has just written its VMHost."""
        if node not in self._live:
            self._asked.set()

    def loaded_within(self, seconds: float) -> bool:
        """Return whether the cache was filled from lists so short a time ago."""
        return time.monotonic() - self._loaded_at <= seconds

    def load(self, stopping: threading.Event) -> bool:
        """Fill the cache from lists; False after a rest when that was not possible yet."""
        try:
            for kind in WATCHED:
                self._cache.replace(kind, self._resources.list(kind))
                self._health.watch_speaks(kind.name)
            self._look_at_leases()
        except NotFound as missing:
            log.warning("The CustomResourceDefinitions are not installed yet: %s", missing)
        except VMBackupError as error:
            log.warning("Cannot read the cluster yet: %s", error)
        else:
            self._loaded_at = time.monotonic()
            return True
        stopping.wait(LOAD_RETRY_SECONDS)
        return False

    def has_kubevirt(self) -> bool:
        """Return whether KubeVirt's VMs can be watched, and know them all; rests when not."""
        try:
            self._cache.replace(VMI, self._resources.list(VMI))
        except VMBackupError as error:
            self._without_kubevirt(error)
            time.sleep(KUBEVIRT_SECONDS)
            return False
        log.info("KubeVirt is here: VirtualMachineInstances can be backed up")
        self._kubevirt_said = ""
        return True

    def _without_kubevirt(self, error: VMBackupError) -> None:
        """Say once why there are no VMs of KubeVirt; that it is not installed is nothing to worry about."""
        if isinstance(error, NotFound):
            self._cache.replace(VMI, ())
        if error.message != self._kubevirt_said:
            self._kubevirt_said = error.message
            level = logging.INFO if isinstance(error, NotFound) else logging.WARNING
            log.log(level, "no VirtualMachineInstances are seen: %s", error)

    def _run(self) -> None:
        compare_at = time.monotonic() + COMPARE_SECONDS
        while True:
            if self._asked.wait(LEASES_SECONDS):
                time.sleep(ASKED_SECONDS)
            self._asked.clear()
            try:
                self._look_at_leases()
                if time.monotonic() >= compare_at:
                    compare_at = time.monotonic() + COMPARE_SECONDS
                    self.compare()
            except VMBackupError as error:
                log.warning("Survey: %s", error)
            except Exception:
                log.exception("Survey")

    def _look_at_leases(self) -> None:
        self._nodes.observe(self._resources.list(LEASE, self._namespace))
        live = self._nodes.live()
        if live != self._live:
            for node in sorted(live - self._live):
                log.info("node %s: agent heard", node)
            for node in sorted(self._live - live):
                log.warning("node %s: agent silent", node)
            self._live = live
            self._wake()

    def compare(self) -> None:
        """Compare every kind with its list once. Raises: APIServerAway, NotFound, Denied."""
        for kind in WATCHED:
            self._compare(kind)
        for kind in OPTIONAL:
            if self._cache.versions(kind):
                with suppress(NotFound, Denied):
                    self._compare(kind)

    def _compare(self, kind: Kind) -> None:
        known = self._cache.versions(kind)
        listed = {
            item["metadata"]["uid"]: item["metadata"]["resourceVersion"]
            for item in self._resources.list(kind, metadata_only=True)
        }
        for uid in set(known) - set(listed):
            self._cache.drop(kind, uid)
        self._listen(kind, listed)

    def _listen(self, kind: Kind, listed: dict[str, str]) -> None:
        """Find objects that changed before the last comparison and of which the watch has said nothing since."""
        heard = self._cache.versions(kind)
        unheard = {uid: heard.get(uid, "") for uid, version in listed.items() if _behind(heard.get(uid, ""), version)}
        before = self._unheard.get(kind, {})
        silent = [uid for uid, version in unheard.items() if before.get(uid) == version]
        self._unheard[kind] = unheard
        self._health.watch_is_silent(kind.name, len(silent))


def _behind(heard: str, listed: str) -> bool:
    """Compare two resource versions of one object; the list may have been read before the last event came."""
    if heard.isdigit() and listed.isdigit():
        return int(heard) < int(listed)
    return heard != listed
