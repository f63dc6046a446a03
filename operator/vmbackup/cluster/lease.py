"""Who of the controller's replicas leads: one Lease, taken and renewed by compare-and-swap."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from vmbackup.api import names
from vmbackup.cluster.client import Body
from vmbackup.cluster.errors import APIServerAway, Conflict, NotFound
from vmbackup.cluster.resources import LEASE, Resources
from vmbackup.errors import VMBackupError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """Seconds: how long a Lease holds, how long its holder tries to renew it, how long to rest between two tries."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


USUAL_TERMS = Terms()


class Election:
    """Lets one of several replicas lead. Losing the lead is final: `on_lost` must end the process."""

    def __init__(
        self,
        resources: Resources,
        namespace: str,
        identity: str,
        on_lost: Callable[[], None],
        terms: Terms = USUAL_TERMS,
    ) -> None:
        self._resources = resources
        self._namespace = namespace
        self._identity = identity
        self._on_lost = on_lost
        self._terms = terms
        self._path = LEASE.path(names.LEASE_CONTROLLER, namespace)
        self._seen: tuple[str, float] = "", 0.0
        self._leading = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    @property
    def leading(self) -> bool:
        return self._leading.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Step down: the other replica may lead at once."""
        self._stopping.set()
        self._thread.join(self._terms.renew_deadline)
        if self._leading.is_set():
            self._leading.clear()
            with contextlib.suppress(VMBackupError):
                self._release()

    def _run(self) -> None:
        while not self._stopping.is_set() and not self._try():
            self._stopping.wait(self._terms.retry)
        if self._stopping.is_set():
            return
        log.info("%s leads", self._identity)
        self._leading.set()
        renewed_at = time.monotonic()
        while not self._stopping.wait(self._terms.retry):
            started_at = time.monotonic()
            if self._try():
                renewed_at = started_at
            elif time.monotonic() - renewed_at >= self._terms.renew_deadline:
                log.error("%s could not renew its lead for %.0f s", self._identity, self._terms.renew_deadline)
                self._leading.clear()
                self._on_lost()
                return

    def _try(self) -> bool:
        """Take or renew the lead; False when another holds it or the API server does not let us."""
        try:
            return self._acquire()
        except Conflict:
            return False  # somebody was faster
        except APIServerAway as error:
            log.warning("Lease %s: %s", names.LEASE_CONTROLLER, error)
        except VMBackupError as error:
            log.error("Lease %s: %s", names.LEASE_CONTROLLER, error)  # noqa: TRY400 - the message says it all
        except Exception:  # this thread must not end while we lead
            log.exception("Lease %s", names.LEASE_CONTROLLER)
        return False

    def _acquire(self) -> bool:
        now = time.time()
        spec: Body = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._terms.duration),
            "renewTime": micro_time(now),
        }
        try:
            lease = self._resources.get(LEASE, names.LEASE_CONTROLLER, self._namespace)
        except NotFound:
            fresh = {**spec, "acquireTime": micro_time(now), "leaseTransitions": 0}
            made = lease_body(names.LEASE_CONTROLLER, self._namespace, fresh)
            self._resources.client.create(LEASE.collection(self._namespace), made)
            return True
        held = lease.get("spec") or {}
        if held.get("holderIdentity") != self._identity:
            if not self._expired(lease):
                return False
            spec |= {"acquireTime": micro_time(now), "leaseTransitions": (held.get("leaseTransitions") or 0) + 1}
        swap = {"resourceVersion": lease["metadata"]["resourceVersion"]}
        self._resources.client.patch(self._path, {"metadata": swap, "spec": spec})
        return True

    def _expired(self, lease: Body) -> bool:
        spec = lease.get("spec") or {}
        if not spec.get("holderIdentity"):
            return True
        version = str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = version, time.monotonic()
            return False
        return time.monotonic() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._terms.duration)

    def _release(self) -> None:
        lease = self._resources.get(LEASE, names.LEASE_CONTROLLER, self._namespace)
        if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
            swap = {"resourceVersion": lease["metadata"]["resourceVersion"]}
            freed = {"holderIdentity": "", "leaseDurationSeconds": 1}
            self._resources.client.patch(self._path, {"metadata": swap, "spec": freed})


def lease_body(name: str, namespace: str, spec: Body) -> Body:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def micro_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
