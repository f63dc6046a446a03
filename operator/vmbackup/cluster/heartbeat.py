"""The heartbeat of a node's agent: a Lease that is renewed every 30 s, as kubelets do, and who is heard of.

Other machines' clocks are not trusted: a Lease is judged by when *we* saw it change, as client-go does.
"""

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime

from vmbackup.api import names
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.lease import lease_body, micro_time
from vmbackup.cluster.resources import LEASE, Resources
from vmbackup.errors import VMBackupError

RENEW_SECONDS = 30.0
DURATION_SECONDS = 90
RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Heartbeat:
    """Renews the Lease of a node's agent every 30 s from a thread of its own; trouble is logged and tried again."""

    def __init__(self, resources: Resources, namespace: str, node: str) -> None:
        self._resources = resources
        self._namespace = namespace
        self._node = node
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _beat(self) -> None:
        rest = 0.0
        while not self._stopping.wait(rest):
            try:
                self.renew()
                rest = RENEW_SECONDS
            except VMBackupError as error:
                log.warning("Lease of node %s not renewed, again in %.0f s: %s", self._node, RETRY_SECONDS, error)
                rest = RETRY_SECONDS
            except Exception:  # a silent heart would look like a dead node
                log.exception("Lease of node %s not renewed, again in %.0f s", self._node, RETRY_SECONDS)
                rest = RETRY_SECONDS

    def renew(self) -> None:
        """Renew once; make the Lease when it is missing. Raises: APIServerAway, Conflict, Denied."""
        name = f"{names.LEASE_AGENT_PREFIX}{self._node}"
        spec = {
            "holderIdentity": self._node,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": micro_time(time.time()),
        }
        try:
            self._resources.client.patch(LEASE.path(name, self._namespace), {"spec": spec})
        except NotFound:
            self._resources.client.create(LEASE.collection(self._namespace), lease_body(name, self._namespace, spec))


class NodeWatch:
    """Which agents are alive, judged from their Leases."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, float]] = {}  # node -> renewTime as written, monotonic time of the change
        self._durations: dict[str, float] = {}

    def observe(self, leases: Iterable[Body]) -> None:
        """Take in all Leases of the agents' namespace."""
        now = time.monotonic()
        nodes = set()
        for lease in leases:
            node = node_of(lease)
            if not node:
                continue
            nodes.add(node)
            renewed = str(lease["spec"].get("renewTime") or "")
            self._durations[node] = float(lease["spec"].get("leaseDurationSeconds") or DURATION_SECONDS)
            before = self._seen.get(node)
            if before is None:
                self._seen[node] = renewed, now - _age_seconds(renewed)
            elif before[0] != renewed:
                self._seen[node] = renewed, now
        for node in set(self._seen) - nodes:
            del self._seen[node]

    def live(self) -> frozenset[str]:
        """Return the nodes whose agent was heard within its lease's duration."""
        now = time.monotonic()
        return frozenset(node for node, (_, at) in self._seen.items() if now - at <= self._durations[node])

    def silences(self) -> dict[str, float]:
        """Return by node how many seconds ago its agent was last heard of."""
        now = time.monotonic()
        return {node: now - at for node, (_, at) in dict(self._seen).items()}


def node_of(lease: Body) -> str:
    """Return the node of an agent's Lease, empty for any other. The name counts: rights can bind it to the node."""
    name = str(lease["metadata"]["name"])
    return name.removeprefix(names.LEASE_AGENT_PREFIX) if name.startswith(names.LEASE_AGENT_PREFIX) else ""


def _age_seconds(renewed: str) -> float:
    """Return how long ago a Lease says it was renewed; for the first look only, where the clocks must do."""
    try:
        return max(0.0, time.time() - datetime.fromisoformat(renewed).timestamp())
    except ValueError:
        return float("inf")
