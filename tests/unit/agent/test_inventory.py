"""The VMHost of a node: true, and written only when there is something new."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from vmbackup.agent import inventory as module
from vmbackup.agent.inventory import Inventory
from vmbackup.api.host import VMHost
from vmbackup.cluster.client import Client
from vmbackup.cluster.resources import LOCATION, VMHOST, Resources
from vmbackup.hypervisor.libvirtd import Libvirtd

PATH = VMHOST.path("n1")


@pytest.fixture
def inventory(desk: Any) -> Inventory:
    return an_inventory(desk, set())


def an_inventory(desk: Any, launchers: set[str]) -> Inventory:
    resources = Resources(cast(Client, desk.server))
    hypervisor = cast(Libvirtd, desk.hypervisor)
    return Inventory(resources, hypervisor, "n1", "session-1", "", find_launchers=lambda: launchers)


def host(desk: Any) -> VMHost:
    return VMHost.model_validate(desk.server.objects[PATH])


def test_first_word_tells_all(desk: Any, inventory: Inventory, tmp_path: Path) -> None:
    """A location that was missing from it would seem to be lost from this node for a moment."""
    desk.location("there", directory={"path": str(tmp_path)})
    inventory.look()
    status = host(desk).status
    assert {each.location: each.ready for each in status.locations} == {"nightly": False, "there": True}
    assert [(vm.namespace, vm.name, vm.running) for vm in status.vms] == [("team-a", "web", True)]
    assert {each.method: each.supported for each in status.methods} == {"Push": True, "Snapshot": True}


def test_nothing_new_is_not_written(desk: Any, inventory: Inventory) -> None:
    inventory.look()
    writes = len(desk.server.writes())
    inventory.look()
    assert len(desk.server.writes()) == writes


def test_location_made_and_removed_later(desk: Any, inventory: Inventory) -> None:
    inventory.look()
    body = desk.server.put(LOCATION.path("late"), desk.server.objects[LOCATION.path("nightly")] | {})
    body["metadata"]["name"] = "late"
    inventory.heard_location(body, gone=False)
    inventory.look()
    assert {each.location for each in host(desk).status.locations} == {"nightly", "late"}
    inventory.heard_location(body, gone=True)
    inventory.look()
    assert {each.location for each in host(desk).status.locations} == {"nightly"}


def test_daemon_away_is_told_and_its_vms_are_not_forgotten(desk: Any, inventory: Inventory) -> None:
    inventory.look()
    desk.hypervisor.kill_daemon()
    inventory.look()
    status = host(desk).status
    assert [(each.type, each.status, each.reason) for each in status.conditions] == [
        ("Ready", "False", "HypervisorAway")
    ]
    assert [vm.name for vm in status.vms] == ["web"]


@pytest.mark.parametrize(("launchers", "status"), [({"a", "b"}, "True"), (set(), "False")])
def test_node_without_a_daemon_of_its_own_is_ready_when_it_has_launcher_pods(
    desk: Any, launchers: set[str], status: str
) -> None:
    desk.hypervisor.kill_daemon()
    an_inventory(desk, launchers).look()
    ready = host(desk).status.conditions[0]
    assert (ready.type, ready.status) == ("Ready", status)
    assert ("2 launcher pods" in ready.message) is (status == "True")
    assert "cannot connect" in ready.message


def test_daemon_that_was_there_before_is_missed_beside_launcher_pods(desk: Any) -> None:
    inventory = an_inventory(desk, {"a"})
    inventory.look()
    desk.hypervisor.kill_daemon()
    inventory.look()
    assert [one.status for one in host(desk).status.conditions] == ["False"]


def test_vmhost_that_somebody_removed_comes_back(
    desk: Any, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.look()
    desk.server.remove(PATH)
    monkeypatch.setattr(module, "WRITE_AGAIN_SECONDS", 0.0)
    inventory.look()
    assert [vm.name for vm in host(desk).status.vms] == ["web"]


def test_old_daemon_cannot_push_and_says_why(desk: Any, inventory: Inventory) -> None:
    desk.hypervisor.libvirt_version = 7_000_000
    inventory.look()
    push = next(each for each in host(desk).status.methods if each.method == "Push")
    assert not push.supported
    assert "7.0.0" in push.reason


def test_unfinished_set_of_which_nobody_knows_is_named_in_the_location(
    desk: Any, inventory: Inventory, tmp_path: Path
) -> None:
    partial = (
        tmp_path / "team-a" / "web" / ".20261122T120000Z-b1-7b0f3c51.7b0f3c51-0000-4000-8000-000000000009.1.partial"
    )
    partial.mkdir(parents=True)
    os.utime(partial, (1_000_000_000, 1_000_000_000))
    desk.location(directory={"path": str(tmp_path)})
    inventory.look()
    inventory.look_for_leftovers()
    inventory.look()
    (seen,) = host(desk).status.locations
    assert seen.ready
    assert str(partial) in seen.message
    assert partial.exists(), "named, not removed"
