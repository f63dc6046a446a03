"""The controller's parts on an API server in memory."""

from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer
from fakes.objects import CREATED, T0, backup_body, host, location
from vmbackup.api.host import HostedVM, LocationSpace
from vmbackup.cluster.client import Client
from vmbackup.cluster.events import Happening, Recorder
from vmbackup.cluster.resources import LOCATION, SCHEDULE, VMBACKUP, VMHOST, VMRESTORE, Kind, Resources
from vmbackup.controller.cache import WATCHED, Cache
from vmbackup.controller.measures import Measures
from vmbackup.controller.reconcile import Reconciler
from vmbackup.controller.restores import Restores
from vmbackup.controller.schedules import Schedules
from vmbackup.controller.set_removals import SetRemovals
from vmbackup.controller.writer import Writer
from vmbackup.core.set_removal import Patience
from vmbackup.core.turns import Limits


class Happenings:
    def __init__(self) -> None:
        self.seen: list[Happening] = []

    def record(self, happening: Happening) -> None:
        self.seen.append(happening)


class Stage:
    """A cluster with a controller's parts. `hear` is what a watch does."""

    def __init__(self) -> None:
        self.server = FakeApiServer()
        self.resources = Resources(cast(Client, self.server))
        self.wakes = 0
        self.cache = Cache(self._wake)
        self.measures = Measures(self.cache)
        self.happenings = Happenings()
        self.live = {"n1", "n2"}
        self.limits = Limits(per_node=2, grace_seconds=60)
        self.writer = Writer(self.cache, self.resources, cast(Recorder, self.happenings))
        self.reconciler = Reconciler(
            self.writer,
            lambda: frozenset(self.live),
            self.limits,
            self.measures,
        )
        self.schedules = Schedules(self.writer)
        self.restores = Restores(self.writer, lambda: frozenset(self.live), self.limits, self.measures)
        self.set_removals = SetRemovals(self.writer, lambda: frozenset(self.live), Patience())

    def _wake(self) -> None:
        self.wakes += 1

    def backup(self, name: str, namespace: str = "team-a", **parts: Any) -> None:
        self._put(VMBACKUP, name, namespace, backup_body(name, namespace, **parts))

    def schedule(self, name: str = "nightly", status: dict[str, Any] | None = None, **spec: Any) -> None:
        """Make a schedule of VM web at half past two each night, made at the time of fakes.objects.CREATED."""
        full = {"schedule": "30 2 * * *", "vms": {"names": ["web"]}, "template": {"spec": {"location": "nightly"}}}
        metadata = {"name": name, "namespace": "team-a", "generation": 1, "creationTimestamp": CREATED}
        body = {"metadata": metadata, "spec": full | spec, "status": status or {}}
        self._put(SCHEDULE, name, "team-a", body)

    def restore(self, name: str, target: dict[str, Any], status: dict[str, Any], **metadata: Any) -> None:
        """Make a VMRestore from the VMBackup `b1`."""
        made = {"name": name, "namespace": "team-a", "generation": 1, "creationTimestamp": CREATED} | metadata
        body = {"metadata": made, "spec": {"source": {"backup": "b1"}, "target": target}, "status": status}
        self._put(VMRESTORE, name, "team-a", body)

    def location(self, name: str = "nightly", **spec: Any) -> None:
        self._put(LOCATION, name, "", location(name, **spec).model_dump(mode="json", by_alias=True))

    def host(self, node: str, *vms: HostedVM, locations: tuple[LocationSpace, ...] = ()) -> None:
        self._put(VMHOST, node, "", host(node, *vms, locations=locations).model_dump(mode="json", by_alias=True))

    def _put(self, kind: Kind, name: str, namespace: str, body: dict[str, Any]) -> None:
        self.cache.put(kind, self.server.put(kind.path(name, namespace), body))

    def hear(self) -> None:
        for kind in WATCHED:
            self.cache.replace(kind, self.resources.list(kind))

    def read(self, name: str, namespace: str = "team-a") -> dict[str, Any]:
        return self.server.objects[VMBACKUP.path(name, namespace)]

    def path(self, name: str) -> str:
        return VMBACKUP.path(name, "team-a")

    def reason(self, name: str) -> str:
        conditions = self.read(name)["status"]["conditions"]
        return str(next(one["reason"] for one in conditions if one["type"] == "Ready"))


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def nightly(stage: Any) -> Any:
    """A schedule that has been seen once."""
    stage.location()
    stage.schedule()
    stage.schedules.reconcile(T0)
    stage.server.calls.clear()
    return stage
