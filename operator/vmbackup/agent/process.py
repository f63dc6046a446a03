"""The agent's process: what runs in it, how it starts and how it ends."""

import logging
import secrets
import signal
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from vmbackup.agent.backups import Backups
from vmbackup.agent.claim import Claims
from vmbackup.agent.inventory import Inventory
from vmbackup.agent.measures import Measures
from vmbackup.agent.pods import LauncherPods
from vmbackup.agent.removals import Removals
from vmbackup.agent.restore_claims import Place
from vmbackup.agent.restores import Restores
from vmbackup.agent.tidings import EventfulLedger
from vmbackup.api import names
from vmbackup.api.vmbackup import Executor, VMBackup
from vmbackup.cluster.client import Body, Client, find_kubeconfig
from vmbackup.cluster.events import Recorder
from vmbackup.cluster.heartbeat import Heartbeat
from vmbackup.cluster.ledger import StatusLedger
from vmbackup.cluster.resources import LOCATION, VMBACKUP, VMRESTORE, Resources
from vmbackup.core.ports import Ports
from vmbackup.door.health import Health, serve
from vmbackup.door.logs import Style, end_process, log_to_stderr, of_run
from vmbackup.door.metrics import serve_metrics
from vmbackup.door.pages import Address
from vmbackup.door.watches import Subscription, Watches
from vmbackup.errors import NotYet, VMBackupError
from vmbackup.hypervisor.launcher import Daemons
from vmbackup.hypervisor.pods import read_file
from vmbackup.hypervisor.sole import sole
from vmbackup.hypervisor.timing import TimedLibvirtd
from vmbackup.store.clock import SteadyClock
from vmbackup.store.directories import Directories
from vmbackup.store.journal import NodeJournal
from vmbackup.store.mounts import KUBELET, Mounts
from vmbackup.store.removal_records import RemovalRecords
from vmbackup.store.restore_journal import RestoreRecords

TRACES_SECONDS = 60.0
SIGNAL_SECONDS = 0.5
STAND_BY_SECONDS = 1.0
LAST_EVENTS_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    kubeconfig: Path | None
    namespace: str
    node: str
    connect: str
    state: Path
    images: Path
    default_namespace: str = ""
    allow_monitor: bool = False
    probe_port: int = 8082
    stall_seconds: int = 300
    grace_seconds: float = 20.0
    kubelet: Path = KUBELET
    metrics_address: Address | None = None
    log_format: Style = "auto"


class Agent:
    """Everything that runs in the process. Threads are daemons: a dying agent leaves libvirt's jobs running."""

    def __init__(self, settings: Settings) -> None:
        self.health = Health()
        self._stopping = threading.Event()
        self._grace_seconds = settings.grace_seconds
        session = secrets.token_hex(6)
        executor = Executor(node=settings.node, session=session)
        kubeconfig = find_kubeconfig(settings.kubeconfig)
        client = Client(kubeconfig, field_manager=names.FIELD_MANAGER_AGENT)
        resources = Resources(client)
        self._connect = settings.connect
        self.measures = Measures(settings.node, settings.state)
        self._hypervisor = TimedLibvirtd(settings.connect, self.measures.took, may_use_monitor=settings.allow_monitor)
        self._recorder = Recorder(client, component=names.FIELD_MANAGER_AGENT, instance=settings.node)
        self._journal = journal = NodeJournal(settings.state)
        clock = SteadyClock(settings.state, busy=bool(journal.runs() or RestoreRecords(settings.state).runs()))
        self._ledger = StatusLedger(resources, executor, now=clock.now)
        daemons = Daemons(self._hypervisor, self.measures.took, may_use_monitor=settings.allow_monitor)
        mounts = Mounts(settings.kubelet)
        store = Directories(
            domain_xml=lambda run: daemons.of(run.launcher).domain_xml(run),
            wake=self._wake,
            node=settings.node,
            mounts=mounts,
            read_pod_file=read_file,
        )
        ledger = EventfulLedger(self._ledger, self._recorder, self.measures.notice)
        claims = Claims(
            resources,
            self._hypervisor,
            executor,
            overlay_directory=settings.state / "overlays",
            default_namespace=settings.default_namespace,
            stall_seconds=settings.stall_seconds,
            now=clock.now,
        )
        pods = LauncherPods(resources, daemons, mounts, settings.node)
        self._backups = Backups(Ports(self._hypervisor, store, journal, ledger, clock), journal, ledger, claims, pods)
        self.measures.look_at(self._backups.busy, clock.now)
        self._inventory = Inventory(resources, self._hypervisor, settings.node, session, settings.default_namespace)
        self._removals = Removals(resources, RemovalRecords(settings.state), settings.node, now=clock.now)
        place = Place(executor, settings.state, settings.images, settings.connect, settings.default_namespace)
        self._restores = Restores(resources, self._recorder, journal, clock, place)
        self._heartbeat = Heartbeat(resources, settings.namespace, settings.node)
        self._watches = Watches(
            kubeconfig,
            (
                Subscription(VMBACKUP, self._hear_backup, field_selector=f"status.node={settings.node}"),
                Subscription(VMRESTORE, self._restores.hear, field_selector=f"status.node={settings.node}"),
                Subscription(LOCATION, lambda body, gone: self._inventory.heard_location(body, gone=gone)),
            ),
            self.health,
            served=lambda: served(resources),
        )

    def stop(self) -> None:
        """End the process soon. Jobs of libvirt's go on and are adopted at the next start."""
        self._stopping.set()

    def run(self) -> int:
        """Return the exit code."""
        with ExitStack() as stack:
            if not self._is_sole(stack):
                return 0
            stack.enter_context(self._ledger)
            stack.enter_context(self._restores.ledger)
            stack.enter_context(self._hypervisor.watch(lambda _uuid: self._wake()))
            self._recorder.start()
            stack.callback(self._recorder.stop, LAST_EVENTS_SECONDS)
            # The way home needs no API server, and comes before what users say: a VMBackup may go when its VM is home.
            self._backups.resume()
            self._restores.resume()
            self._look_for_traces()
            self._heartbeat.start()
            self._inventory.start()
            self._removals.start()
            self._watches.start()
            self.health.ready = True
            threading.Thread(target=self._look_again, name="traces", daemon=True).start()
            # In short turns: handlers run in this thread only, and a signal that the kernel gave to another cannot end
            # its wait (with threads that start children, one SIGTERM in twenty was noticed after the wait only).
            while not self._stopping.wait(SIGNAL_SECONDS):
                pass
            left = self._backups.stop(self._grace_seconds)
            for run in left:
                log.info("%s: left in phase %s to the next agent of this node", run.key, run.phase, extra=of_run(run))
        log.info("the agent ends; %d backup(s) are left to the next one", len(left))
        return 0

    def _is_sole(self, stack: ExitStack) -> bool:
        """Wait until no other agent of this node works, for one that was started by mistake or too early.

        False: asked to end before.
        """
        said = ""
        while not self._stopping.is_set():
            try:
                with ExitStack() as taken_up:
                    taken_up.enter_context(self._journal.sole())
                    taken_up.enter_context(sole(self._connect))
                    stack.enter_context(taken_up.pop_all())
            except NotYet as taken:
                if said != taken.message:
                    said = taken.message
                    log.warning("this agent stands by: %s", said)
                self._stopping.wait(STAND_BY_SECONDS)
            else:
                return True
        return False

    def _look_again(self) -> None:
        while not self._stopping.wait(TRACES_SECONDS):
            self._look_for_traces()
            self._inventory.look_for_leftovers()

    def _look_for_traces(self) -> None:
        """Look for what the journal does not know or could not end. Done at the start and from time to time."""
        try:
            self._backups.sweep()
            self._backups.rescue(self._restores.domains())
        except VMBackupError as error:
            log.info("the VMs cannot be looked at now: %s", error.message)
        except Exception:
            log.exception("looking for traces: unforeseen fault")

    def _wake(self) -> None:
        self._backups.wake()
        self._restores.wake()
        self._inventory.wake()

    def _hear_backup(self, body: Body, gone: bool) -> None:
        try:
            backup = VMBackup.parse(body)
        except ValidationError as error:
            name = body["metadata"]["name"]
            about = {
                "backup": f"{body['metadata'].get('namespace', '')}/{name}",
                "uid": body["metadata"].get("uid", ""),
            }
            words = "VMBackup %s cannot be read and is left alone: %s"
            log.error(words, name, error, extra=about)  # noqa: TRY400 - no fault of ours
            return
        self._backups.heard(backup, gone=gone)
        self._removals.heard(backup, gone=gone)


def served(resources: Resources) -> bool:
    """Return whether the API server answers and serves our kinds."""
    try:
        return all(resources.serves(kind) for kind in (VMBACKUP, VMRESTORE, LOCATION))
    except VMBackupError as error:
        log.warning("the API server cannot be asked for its kinds: %s", error.message)
        return False


def main(settings: Settings) -> NoReturn:
    """Run until SIGTERM or SIGINT, and end the process."""
    log_to_stderr(settings.log_format, node=settings.node)
    agent = Agent(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    if settings.probe_port:
        serve(agent.health, settings.probe_port)
    if settings.metrics_address:
        serve_metrics(agent.measures.metrics, settings.metrics_address)
    end_process(agent.run())
