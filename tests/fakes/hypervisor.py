"""A hypervisor in memory that simulates what libvirt and QEMU were seen to do; the contract suite keeps it honest.

A walk test makes domains, hands the fake to the spine as its Hypervisor port, and plays fate:

    fake = FakeHypervisor(files=files, now=clock.now)
    vm = fake.add(FakeDomain("team-a_vm1", disks=[FakeDisk("vda", "/images/vda.qcow2", "qcow2")]))
    vm.kill_qemu(); vm.restart_guest(); vm.guest.frozen; fake.kill_daemon(); fake.start_daemon(); fake.restart_agent()

Share `files` (absolute path -> bytes occupied) and `open_paths` with FakeStore.
"""

import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from fakes.disks import FakeDisk, FakeImage, Files
from fakes.domain import FakeDomain
from fakes.faults import Faults, strike
from fakes.guest import Clock, FakeGuest
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.core.facts import DomainFacts, HostFacts
from vmbackup.core.steps import (
    AbortJob,
    BeginPush,
    DrainStatistics,
    FreezeGuest,
    HypervisorStep,
    LimitSpeed,
    Pivot,
    ResumeGuest,
    StartCommit,
    TakeSnapshot,
    ThawGuest,
)
from vmbackup.errors import Failed, NotYet, Refused

Call = str | type[HypervisorStep]  # "host", "find", "observe", "domain_xml", or the class of a step
FIRST_FULL_PUSH = 7_002_000

__all__ = ["FakeDisk", "FakeDomain", "FakeGuest", "FakeHypervisor", "OpenPaths"]


class OpenPaths(Set[str]):
    """The paths on which some QEMU holds a lock, as they are at the time of asking."""

    def __init__(self, domains: dict[str, FakeDomain]) -> None:
        self._domains = domains

    def __contains__(self, path: object) -> bool:
        return any(path in domain.open_paths for domain in self._domains.values())

    def __iter__(self) -> Iterator[str]:
        return iter({path for domain in self._domains.values() for path in domain.open_paths})

    def __len__(self) -> int:
        return sum(1 for _ in self)


class FakeHypervisor:
    """The Hypervisor port, without a hypervisor.

    Attributes:
        errors, errors_after: planned errors by Call, before or after the effect; see faults.py.
        hook: called as hook(call, "before" | "after") around every effect; may raise, to crash the caller there.
        calls: every call so far, in order: method names, and the steps themselves.
        open_paths: paths that some QEMU holds open for writing; a live view.
        away: True while the daemon is dead; use kill_daemon and start_daemon.
        libvirt_version, may_use_monitor, confined_by_apparmor: what `host` says.
        speed_can_be_limited: False behaves like libvirt 11 without the monitor.
        in_pod: the daemon is in a launcher pod. mounts: directories that the pod sees, by their paths in it; shared
            with FakeStore.
    """

    def __init__(self, *, files: Files | None = None, now: Clock = time.monotonic) -> None:
        self.files: Files = {} if files is None else files
        self.images: dict[str, FakeImage] = {}
        self.domains: dict[str, FakeDomain] = {}
        self.open_paths = OpenPaths(self.domains)
        self.errors: Faults = {}
        self.errors_after: Faults = {}
        self.hook: Callable[[Call, str], None] = lambda _call, _when: None
        self.calls: list[str | HypervisorStep] = []
        self.away = False
        self.libvirt_version = 9_000_000
        self.hypervisor_version = 7_002_022
        self.may_use_monitor = False
        self.confined_by_apparmor = False
        self.speed_can_be_limited = True
        self.in_pod = False
        self.mounts: dict[str, str] = {}
        self._now = now
        self._lock = threading.RLock()

    def add(self, domain: FakeDomain) -> FakeDomain:
        """Define a domain and start its guest."""
        domain.plug_in(self.files, self.images, self._now, lambda: self.away)
        self.domains[domain.uuid] = domain
        domain.restart_guest()
        return domain

    def kill_daemon(self) -> None:
        """The daemon dies: QEMUs and their jobs go on, completed statistics are forgotten."""
        self.away = True
        for domain in self.domains.values():
            domain.completed = None

    def start_daemon(self) -> None:
        """The daemon is back and looks at what happened meanwhile."""
        self.away = False
        for domain in self.domains.values():
            domain.catch_up()

    def restart_agent(self) -> None:
        """Our process ends and comes back: freeze watchdogs die with it, the guests stay as they are."""
        for domain in self.domains.values():
            domain.guest.forget_freeze()

    def host(self) -> HostFacts:
        with self._effect("host"):
            return HostFacts(
                self.libvirt_version,
                self.hypervisor_version,
                self.may_use_monitor,
                self.confined_by_apparmor,
                in_pod=self.in_pod,
            )

    def find(self, domain: str) -> DomainFacts:
        with self._effect("find"):
            found = next((each for each in self.domains.values() if each.name == domain), None)
            return found.facts() if found else DomainFacts(domain, "", "absent")

    def observe(self, run: Run) -> DomainFacts:
        """Return what libvirt would say, then let the jobs of the domain advance by one look."""
        with self._effect("observe"):
            domain = self.domains.get(run.domain_uuid)
            if domain is None:
                return DomainFacts(run.domain, run.domain_uuid, "absent")
            facts = domain.facts()
            domain.look()
            return facts

    def domain_xml(self, run: Run) -> str:
        with self._effect("domain_xml"):
            domain = self._domain(run)
            return f"<domain type='qemu'><name>{domain.name}</name><uuid>{domain.uuid}</uuid></domain>"

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        with self._effect(type(step), step):
            if isinstance(step, ThawGuest):
                domain = self.domains.get(run.domain_uuid)
                return domain.guest.thaw() if domain else None
            self._do(run, step)
            return None

    def _do(self, run: Run, step: HypervisorStep) -> None:  # noqa: C901 - a table
        match step:
            case AbortJob():
                if run.domain_uuid in self.domains:
                    self.domains[run.domain_uuid].abort_push(under=_ours(run))
            case DrainStatistics():
                self._domain(run).completed = None
            case FreezeGuest():
                self._freeze(run, step)
            case BeginPush():
                self._begin_push(run, step)
            case LimitSpeed():
                self._limit(run, step)
            case TakeSnapshot():
                self._running(run).take_snapshot(dict(step.overlays))
            case StartCommit():
                self._running(run).start_commit(step.target, step.base, uid=run.uid)
            case Pivot():
                self._running(run).pivot(step.target, uid=run.uid)
            case ResumeGuest():
                self._running(run).paused_by_io_error = False

    def _begin_push(self, run: Run, step: BeginPush) -> None:
        if self.libvirt_version < FIRST_FULL_PUSH:
            raise Refused(Reason.METHOD_UNSUPPORTED, f"{run.domain}: incremental backup is not supported yet")
        self._running(run).begin_push(dict(step.targets), ours=_ours(run), made=self._made(run, dict(step.targets)))

    def _made(self, run: Run, targets: dict[str, str]) -> dict[str, str] | None:
        """Return the paths outside of the pod, None where there is no pod."""
        if run.launcher is None:
            return None
        if run.target_directory not in self.mounts:
            message = f"{run.domain}: {run.target_directory}: No such file or directory"
            raise Failed(Reason.BACKUP_JOB_FAILED, message, heals=True)
        outside = self.mounts[run.target_directory]
        return {target: path.replace(run.target_directory, outside) for target, path in targets.items()}

    def _freeze(self, run: Run, step: FreezeGuest) -> None:
        domain = self._running(run)
        if domain.paused or domain.paused_by_io_error:
            raise Failed(Reason.FREEZE_FAILED, f"{run.domain}: domain is paused")
        domain.guest.freeze(step.limit_seconds)

    def _limit(self, run: Run, step: LimitSpeed) -> None:
        domain = self._running(run)
        if domain.push is None:
            return
        if not self.speed_can_be_limited and not self.may_use_monitor:
            raise Failed(Reason.SPEED_LIMIT_UNSUPPORTED, f"{run.domain}: the daemon does not let a limit through")
        domain.push.bytes_per_second = step.bytes_per_second

    def _domain(self, run: Run) -> FakeDomain:
        domain = self.domains.get(run.domain_uuid)
        if domain is None or domain.gone:
            raise Failed(Reason.VM_NOT_FOUND, f"{run.domain}: libvirt knows no domain {run.domain_uuid}")
        return domain

    def _running(self, run: Run) -> FakeDomain:
        domain = self._domain(run)
        if not domain.alive:
            raise Failed(Reason.VM_NOT_RUNNING, f"{run.domain}: domain is not running")
        return domain

    @contextmanager
    def _effect(self, call: Call, step: HypervisorStep | None = None) -> Iterator[None]:
        with self._lock:
            self.calls.append(step if step is not None else str(call))
            if self.away:
                raise NotYet(Reason.HYPERVISOR_AWAY, "cannot connect to libvirt: the daemon is away")
            for domain in self.domains.values():
                domain.guest.let_watchdog_bark()
            self.hook(call, "before")
            strike(self.errors, call)
            yield
            strike(self.errors_after, call)
            self.hook(call, "after")


def _ours(run: Run) -> str:
    return f"{run.target_directory}/"
