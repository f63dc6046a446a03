"""Which node does a restore: named, the VM's, the one that wrote, or one that sees the set; else refused in words."""

from typing import Any

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.host import VMHost
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.restore import VMRestore
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.restore_turns import (
    Abandon,
    Bind,
    KnownBackup,
    Refuse,
    RestoreScene,
    Turn,
    Wait,
    plan_restores,
    status_of_restore_turn,
)
from vmbackup.core.turns import Limits

NOW = 1_790_000_000.0
CREATED = rfc3339(NOW)
FROM_SET = {"set": {"location": "nightly", "vm": "web"}}


def restore(target: Any = None, *, source: Any = None, status: Any = None, **more: Any) -> VMRestore:
    metadata = {"name": more.pop("name", "r"), "namespace": "demo", "uid": "u", "creationTimestamp": CREATED}
    metadata |= more.pop("metadata", {})
    spec = {"source": source or {"backup": "b"}, "target": target or {"disks": {}}, **more}
    return VMRestore.parse({"metadata": metadata, "spec": spec, "status": status or {}})


def location(*, shared: bool = False, allowed: str = "demo") -> VMBackupLocation:
    spec = {"directory": {"path": "/backups", "shared": shared}, "allowedNamespaces": {"names": [allowed]}}
    return VMBackupLocation.model_validate({"metadata": {"name": "nightly"}, "spec": spec})


def host(*vms: str) -> VMHost:
    uuid = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
    listed = [{"name": vm, "namespace": "demo", "domain": vm, "uuid": uuid, "running": False} for vm in vms]
    spaces = [{"location": "nightly", "node": "", "ready": True}]
    return VMHost.model_validate({"metadata": {"name": "n"}, "status": {"vms": listed, "locations": spaces}})


def turn(one: VMRestore, *, late: float = 0.0, **scene: Any) -> Turn:
    full: dict[str, Any] = {
        "restores": [one],
        "backups": {("demo", "b"): KnownBackup("web", "nightly", "n2")},
        "hosts": {"n1": host("web"), "n2": host()},
        "locations": {"nightly": location()},
        "namespaces": {"demo": {}},
        "live_nodes": {"n1", "n2"},
    }
    (only,) = plan_restores(RestoreScene(**full | scene), Limits(), NOW + late)
    return only


@pytest.mark.parametrize(
    ("one", "scene", "node"),
    [
        (restore(), {}, "n2"),  # the node that wrote it: the location is not shared
        (restore(node="n1"), {}, "n1"),
        (restore({"inPlace": {"overwrite": True}}), {}, "n1"),  # the VM's
        (restore(source=FROM_SET), {"locations": {"nightly": location(shared=True)}}, "n1"),
        (restore(source=FROM_SET), {"live_nodes": {"n2"}}, "n2"),  # the only one that sees it
        (restore(), {"locations": {"nightly": location(shared=True)}, "live_nodes": {"n1"}}, "n1"),
    ],
)
def test_bound_to_the_right_node(one: VMRestore, scene: dict[str, Any], node: str) -> None:
    found = turn(one, **scene)
    assert isinstance(found, Bind)
    assert found.node == node
    assert status_of_restore_turn(found, NOW).node == node


@pytest.mark.parametrize(
    ("one", "scene", "reason"),
    [
        (restore(source=FROM_SET), {}, Reason.NO_NODE),
        (restore(), {"locations": {"nightly": location(allowed="other")}}, Reason.LOCATION_NOT_ALLOWED),
        (restore(cancel=True), {}, Reason.CANCELLED),
        (restore(metadata={"deletionTimestamp": CREATED}), {}, Reason.DELETED),
    ],
)
def test_refused_at_once(one: VMRestore, scene: dict[str, Any], reason: Reason) -> None:
    found = turn(one, **scene)
    assert isinstance(found, Refuse)
    assert found.reason is reason


@pytest.mark.parametrize(
    ("one", "scene", "reason"),
    [
        (restore(), {"backups": {}}, Reason.SET_NOT_FOUND),
        (restore(), {"locations": {}}, Reason.LOCATION_NOT_FOUND),
        (restore({"inPlace": {"overwrite": True}}), {"hosts": {}}, Reason.VM_NOT_FOUND),
    ],
)
def test_what_is_missing_may_come_for_a_minute(one: VMRestore, scene: dict[str, Any], reason: Reason) -> None:
    first, last = turn(one, **scene), turn(one, late=61.0, **scene)
    assert isinstance(first, Wait)
    assert isinstance(last, Refuse)
    assert (first.reason, last.reason) == (reason, reason)


def test_a_silent_node_is_waited_for_until_the_deadline() -> None:
    one = restore(node="n9", deadlineSeconds=100)
    assert isinstance(turn(one), Wait)
    late = turn(one, late=101.0)
    assert isinstance(late, Refuse)
    assert late.reason is Reason.DEADLINE_EXCEEDED


def test_a_bound_restore_stays_bound_to_a_silent_node() -> None:
    bound = restore(status={"node": "n9", "phase": "Copying"})
    found = turn(bound)
    assert isinstance(found, Wait)
    assert found.reason is Reason.NODE_LOST
    deleted = restore(status={"node": "n9", "phase": "Copying"}, metadata={"deletionTimestamp": CREATED})
    assert isinstance(turn(deleted, late=901.0), Abandon)


def test_a_node_does_two_at_a_time() -> None:
    many = [restore(name=f"r{number}", metadata={"uid": str(number)}) for number in range(3)]
    scene = RestoreScene(
        many, {("demo", "b"): KnownBackup("web", "nightly", "n2")}, {"n2": host()}, {"nightly": location()}, {}, {"n2"}
    )
    kinds = [type(found) for found in plan_restores(scene, Limits(per_node=2), NOW)]
    assert kinds == [Bind, Bind, Wait]
