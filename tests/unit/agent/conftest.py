"""The agent's backups with a hypervisor, a store and an API server in memory, and a real journal."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer
from fakes.hypervisor import FakeDisk, FakeDomain, FakeHypervisor
from fakes.store import FakeStore
from fakes.waiting import eventually
from vmbackup.agent import backups as module
from vmbackup.agent.backups import Backups, Served
from vmbackup.agent.claim import Claims
from vmbackup.agent.measures import Measures
from vmbackup.agent.pods import LauncherPods
from vmbackup.agent.tidings import EventfulLedger
from vmbackup.api import names
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Executor, VMBackup
from vmbackup.cluster.client import Client
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.ledger import StatusLedger
from vmbackup.cluster.resources import LOCATION, VMBACKUP, Resources
from vmbackup.core.plan import Request, plan
from vmbackup.core.ports import Ports
from vmbackup.hypervisor.launcher import Daemons
from vmbackup.hypervisor.libvirtd import KnownDomain, Libvirtd
from vmbackup.store.journal import NodeJournal
from vmbackup.store.mounts import Mounts

NODE = "n1"
REST_SECONDS = 0.002
UID = "7b0f3c51-0000-4000-8000-000000000001"


class Hypervisor(FakeHypervisor):
    """With the list of VMs that the agent asks for."""

    def vms(self) -> list[KnownDomain]:
        with self._effect("host"):
            return [KnownDomain(each.name, each.uuid, each.alive, None) for each in self.domains.values()]


class Happenings:
    def __init__(self) -> None:
        self.seen: list[Happening] = []

    def record(self, happening: Happening) -> None:
        self.seen.append(happening)

    @property
    def reasons(self) -> list[str]:
        return [happening.reason for happening in self.seen]


class Clock:
    """The system's clock, and as much as a test puts on top."""

    ahead_seconds = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_seconds


class Desk:
    """One agent without its process. `restart` is what a kubelet does after a SIGKILL, minus the kill."""

    def __init__(self, state: Path) -> None:
        self.server = FakeApiServer()
        self.clock = Clock()
        self.hypervisor = Hypervisor()
        self.store = FakeStore(self.hypervisor.files, open_paths=self.hypervisor.open_paths)
        self.domain = self.hypervisor.add(FakeDomain("team-a_web", disks=[FakeDisk("vda", "/images/vda.qcow2")]))
        self.happenings = Happenings()
        self.journal = NodeJournal(state)
        self._state, self._overlays = state, state / "overlays"
        self._resources = Resources(cast(Client, self.server))
        self.sessions = 0
        self.location()
        self.start()

    def start(self) -> None:
        self.sessions += 1
        executor = Executor(node=NODE, session=f"session-{self.sessions}")
        self.status_ledger = StatusLedger(self._resources, executor, interval_seconds=0.0, now=self.clock.now)
        self.status_ledger.__enter__()
        self.measures = Measures(NODE, self._state)
        self.ledger = EventfulLedger(self.status_ledger, cast(Recorder, self.happenings), self.measures.notice)
        claims = Claims(
            self._resources,
            cast(Libvirtd, self.hypervisor),
            executor,
            overlay_directory=self._overlays,
            default_namespace="",
            stall_seconds=300,
            now=self.clock.now,
        )
        ports = Ports(self.hypervisor, self.store, self.journal, self.ledger, self.clock)
        pods = LauncherPods(self._resources, Daemons(cast(Libvirtd, self.hypervisor)), Mounts(), NODE)
        self.backups = Backups(ports, self.journal, self.ledger, claims, pods)
        self.measures.look_at(self.backups.busy, self.clock.now)

    def stop(self) -> None:
        self.status_ledger.__exit__(None, None, None)

    def location(self, name: str = "nightly", **spec: Any) -> None:
        full = {"directory": {"path": "/backups"}, "allowedNamespaces": {"names": ["team-a"]}} | spec
        self.server.put(LOCATION.path(name), {"metadata": {"name": name}, "spec": full})

    def bind(self, name: str = "b1", namespace: str = "team-a", **parts: Any) -> VMBackup:
        """Store a VMBackup as the controller leaves it, and return it. parts: `spec`, `status`, `metadata`."""
        metadata = {"name": name, "namespace": namespace, "uid": UID, "generation": 1} | parts.get("metadata", {})
        body = {
            "apiVersion": names.API_VERSION,
            "kind": "VMBackup",
            "metadata": metadata,
            "spec": {"source": {"name": "web"}, "location": "nightly"} | parts.get("spec", {}),
            "status": {"node": NODE, "phase": "Assigned"} | parts.get("status", {}),
        }
        return VMBackup.parse(self.server.put(VMBACKUP.path(name, namespace), body))

    def plan(self, backup: VMBackup) -> Run:
        """Return the first record of a backup that is bound."""
        request = Request(
            uid=backup.metadata.uid,
            namespace="team-a",
            name="b1",
            spec=backup.spec,
            domain="team-a_web",
            location_path="/backups",
            overlay_directory="/overlays",
            started_at=self.clock.now(),
        )
        return plan(request, self.hypervisor.find("team-a_web"), self.hypervisor.host(), self.clock.now())

    def hear(self, backup: VMBackup | None = None, *, gone: bool = False) -> None:
        """Do what the watch does."""
        self.backups.heard(backup or self.read(), gone=gone)

    def read(self, name: str = "b1", namespace: str = "team-a") -> VMBackup:
        return VMBackup.parse(self.server.objects[VMBACKUP.path(name, namespace)])

    def reason(self) -> str:
        found = [each.reason for each in self.read().status.conditions if each.type == "Succeeded"]
        return found[0] if found else ""

    def until_over(self) -> VMBackup:
        eventually(lambda: self.read().finished, "the backup is over")
        self.until_idle()
        return self.read()

    def until_idle(self) -> None:
        eventually(lambda: not self.backups.busy(), "nothing is under way")

    def until_waits_for(self, reason: str) -> None:
        eventually(lambda: self.reason() == reason, f"the backup waits: {reason}")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", REST_SECONDS)
    monkeypatch.setattr(module, "FAULT_REST_SECONDS", (REST_SECONDS,))
    monkeypatch.setattr(Served, "pause", _pause)
    desk = Desk(tmp_path)
    yield desk
    desk.stop()
    eventually(lambda: not any(each.name.startswith("backup-") for each in threading.enumerate()), "no thread is left")


def _pause(served: Served, seconds: float) -> None:
    served.woken.wait(min(seconds, REST_SECONDS))
    served.woken.clear()
