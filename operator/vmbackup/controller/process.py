"""The controller's process: what runs in it, how it starts and how it ends."""

import logging
import secrets
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import NoReturn

from vmbackup.api import names
from vmbackup.cluster.client import Body, Client, find_kubeconfig
from vmbackup.cluster.errors import APIServerAway
from vmbackup.cluster.events import Recorder
from vmbackup.cluster.lease import USUAL_TERMS, Election, Terms
from vmbackup.cluster.resources import VMHOST, Kind, Resources
from vmbackup.controller.cache import OPTIONAL, WATCHED, Cache
from vmbackup.controller.measures import Measures
from vmbackup.controller.reconcile import Reconciler
from vmbackup.controller.restores import Restores
from vmbackup.controller.schedules import Schedules
from vmbackup.controller.set_removals import SetRemovals
from vmbackup.controller.survey import Survey
from vmbackup.controller.writer import Writer
from vmbackup.core.set_removal import Patience
from vmbackup.core.turns import Limits
from vmbackup.door.health import LOOP_SECONDS, Health, serve
from vmbackup.door.logs import Style, end_process, log_to_stderr
from vmbackup.door.metrics import serve_metrics
from vmbackup.door.pages import Address
from vmbackup.door.watches import Subscription, Watches

PASS_SECONDS = 1.0  # between two passes when nothing happens: graces, deadlines and TTLs run out by the clock
AWAY_SECONDS = 1.0
FRESH_SECONDS = 3.0
USUAL_LIMITS = Limits()

log = logging.getLogger(__name__)


def main(  # noqa: PLR0913 - the options of the command line
    kubeconfig: Path | None,
    namespace: str,
    limits: Limits = USUAL_LIMITS,
    probe_port: int = 8081,
    terms: Terms = USUAL_TERMS,
    *,
    metrics_address: Address | None = None,
    log_format: Style = "auto",
) -> NoReturn:
    """Run until SIGTERM or SIGINT (0), or until the lead or the watches are lost (1), and end the process.

    namespace: where the Leases are. probe_port: 0 for none. metrics_address: None for none.
    """
    log_to_stderr(log_format)
    controller = Controller(find_kubeconfig(kubeconfig), namespace, limits, terms)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop(0))
    if probe_port:
        serve(controller.health, probe_port)
    if metrics_address:
        serve_metrics(controller.measures.metrics, metrics_address)
    end_process(controller.run())


class Controller:
    """Two replicas run; both watch, the one that holds the Lease decides and writes."""

    def __init__(self, kubeconfig: Path | None, namespace: str, limits: Limits, terms: Terms) -> None:
        identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.health = Health()
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._code = 0
        client = Client(kubeconfig, field_manager=names.FIELD_MANAGER_CONTROLLER)
        resources = Resources(client)
        self._cache = cache = Cache(self._woken.set)
        self.measures = Measures(cache)
        self._survey = Survey(resources, cache, namespace, self.health, self._woken.set)
        self._recorder = Recorder(client, component=names.FIELD_MANAGER_CONTROLLER, instance=identity)
        self._election = Election(resources, namespace, identity, _lost, terms)
        subscriptions = [Subscription(kind, partial(self._hear, kind)) for kind in WATCHED]
        self._watches = Watches(kubeconfig, subscriptions, self.health, on_end=lambda: self.stop(1))
        kubevirt = [Subscription(kind, partial(self._hear, kind)) for kind in OPTIONAL]
        self._kubevirt = Watches(
            kubeconfig, kubevirt, self.health, served=self._survey.has_kubevirt, part="watch loop of KubeVirt"
        )
        writer = Writer(cache, resources, self._recorder)
        self._reconciler = Reconciler(writer, self._survey.live_nodes, limits, self.measures)
        self.measures.look_at(self._survey, self._election, self.health)
        self._schedules = Schedules(writer)
        self._restores = Restores(writer, self._survey.live_nodes, limits, self.measures)
        patience = Patience(limits.removal_seconds, limits.abandon_seconds)
        self._set_removals = SetRemovals(writer, self._survey.live_nodes, patience)

    def stop(self, code: int) -> None:
        """End the process soon, with this exit code."""
        self._code = self._code or code
        self._stopping.set()
        self._woken.set()

    def run(self) -> int:
        """Return the exit code."""
        # kopf looks once which kinds there are: it must not start before they are served.
        while not self._survey.load(self._stopping):
            if self._stopping.is_set():
                return self._code
        self.health.ready = True
        self._watches.start()
        self._kubevirt.start()
        self._survey.start()
        self._recorder.start()
        self._election.start()
        log.info("the controller watches")
        self._lead()
        self._election.stop()
        self._recorder.stop(timeout_seconds=1.0)
        log.info("the controller ends")
        return self._code

    def _hear(self, kind: Kind, body: Body, gone: bool) -> None:
        if gone:
            self._cache.drop(kind, body["metadata"]["uid"])
            return
        self._cache.put(kind, body)
        if kind is VMHOST:
            self._survey.ask(body["metadata"]["name"])

    def _lead(self) -> None:
        fresh = False
        self.health.beat("reconcile loop", LOOP_SECONDS)
        while not self._stopping.is_set():
            self._woken.wait(PASS_SECONDS)
            self._woken.clear()
            if self._election.leading and not fresh:
                # What a leader before us wrote last may not have come by the watches yet.
                fresh = self._survey.loaded_within(FRESH_SECONDS) or self._survey.load(self._stopping)
            if not fresh or self._pass():
                self.health.beat("reconcile loop", LOOP_SECONDS)

    def _pass(self) -> bool:
        """Take one pass, then rest as long as it took: a storm of events must not take a whole processor.

        Returns whether there was no fault of ours; an API server that is away is none.
        """
        began = time.monotonic()
        try:
            self._reconciler.reconcile(time.time())
            self._set_removals.reconcile(time.time())
            self._schedules.reconcile(time.time())
            self._restores.reconcile(time.time())
        except APIServerAway as away:
            log.warning("%s", away)
            self._stopping.wait(AWAY_SECONDS)
        except Exception:
            log.exception("a pass failed")
            self._stopping.wait(AWAY_SECONDS)
            return False
        self._stopping.wait(min(time.monotonic() - began, PASS_SECONDS))
        return True


def _lost() -> None:
    """End at once: another replica may lead already."""
    log.critical("the lead is lost: this process ends")
    end_process(1)
