"""The watches: kopf in a thread and loop of its own. Listeners are handed what is heard, and must only enqueue.

No timers, daemons or change handlers: those would put finalizers and annotations of kopf's on our resources.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import kopf

from vmbackup.api import names
from vmbackup.cluster.client import Body, load_configuration
from vmbackup.cluster.resources import Kind
from vmbackup.door.health import WATCH_SECONDS, Health

BEAT_SECONDS = 1.0
AGAIN_SECONDS = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subscription:
    """Listen to all objects of a kind that the server's field selector lets through.

    `hear(body, gone)`: an object that leaves the selector is heard as gone, as a deleted one is.
    """

    kind: Kind
    hear: Callable[[Body, bool], None]
    field_selector: str = ""


class Watches:
    """Watches until the process ends.

    on_end: called when kopf gives up; None: kopf is started again, for a process that has other work to bring home.
    served: whether the API server serves the kinds. kopf looks only once which kinds there are, so it is not started
    before. part: what the signs of life are called.
    """

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None,
        subscriptions: Sequence[Subscription],
        health: Health,
        *,
        on_end: Callable[[], None] | None = None,
        served: Callable[[], bool] = lambda: True,
        part: str = "watch loop",
    ) -> None:
        self._health, self._part = health, part
        self._served = served
        self._on_end = on_end
        self._settings = settings()
        self._registry = kopf.OperatorRegistry()
        kopf.on.login(registry=self._registry)(lambda **_: connection(kubeconfig))
        for subscription in subscriptions:
            self._subscribe(subscription)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _subscribe(self, subscription: Subscription) -> None:
        kind = subscription.kind
        group, version = kind.group_version

        async def hear(event: Any, **_: Any) -> None:
            self._health.watch_speaks(kind.name)
            subscription.hear(event["object"], event["type"] == "DELETED")

        hear.__name__ = f"hear_{kind.plural}"
        kopf.on.event(group, version, kind.plural, registry=self._registry)(hear)
        if subscription.field_selector:
            # A tuple as key: the string form is silently ignored (kopf 1.45.2, tried).
            self._settings.watching.field_selectors[group, kind.plural] = subscription.field_selector

    def _run(self) -> None:
        while True:
            while not self._served():
                self._health.beat(self._part, WATCH_SECONDS)
                time.sleep(AGAIN_SECONDS)
            try:
                asyncio.run(self._serve())
                log.error("the watches ended")
            except Exception:
                log.exception("the watches ended")
            if self._on_end is not None:
                self._on_end()
                return
            time.sleep(AGAIN_SECONDS)

    async def _serve(self) -> None:
        beat = asyncio.create_task(self._beat())
        try:
            await kopf.operator(registry=self._registry, settings=self._settings, clusterwide=True, standalone=True)
        finally:
            beat.cancel()

    async def _beat(self) -> None:
        """Show that the loop turns: a blocked listener would stop all watches."""
        while True:
            self._health.beat(self._part, WATCH_SECONDS)
            await asyncio.sleep(BEAT_SECONDS)


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings: explicit time limits, nothing written to the cluster."""
    chosen = kopf.OperatorSettings()
    chosen.peering.standalone = True
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    # kopf removes its finalizer wherever it has no use for it: it must not be ours.
    chosen.persistence.finalizer = f"{names.GROUP}/kopf"
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{names.GROUP}", v1=False)
    chosen.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{names.GROUP}", v1=False)
    chosen.watching.server_timeout = 300
    chosen.watching.client_timeout = 310
    chosen.watching.connect_timeout = 10
    chosen.watching.inactivity_timeout = 70
    chosen.watching.reconnect_backoff = 1
    chosen.watching.chunk_size = 500
    chosen.networking.request_timeout = 30
    chosen.networking.connect_timeout = 10
    chosen.networking.error_backoffs = (0.5, 1, 2, 3, 5, 5, 5, 5, 5, 5)
    # A worker per object lives for idle_timeout after its last event; while worker_limit of them live, no event of
    # another object is handled. Short lives keep a list of 10,000 objects from taking minutes.
    chosen.queueing.worker_limit = 1000
    chosen.queueing.idle_timeout = 0.1
    chosen.execution.max_workers = 1
    chosen.process.ultimate_exiting_timeout = 10
    return chosen


def connection(kubeconfig: str | os.PathLike[str] | None) -> kopf.ConnectionInfo:
    """Return how kopf reaches the API server: read anew at every login, as tokens change."""
    configuration = load_configuration(kubeconfig)
    header = configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        token=header.split(" ")[-1] or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
