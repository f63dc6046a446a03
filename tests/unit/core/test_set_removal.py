"""What becomes of a set when its VMBackup is deleted: who removes it, and how long it is waited for."""

from typing import Any

import pytest

from fakes.objects import T0, backup, host, location, vm
from vmbackup.api import names
from vmbackup.api.host import LocationSpace
from vmbackup.api.vmbackup import VMBackup
from vmbackup.core.kstatus import rfc3339
from vmbackup.core.set_removal import HandOver, Hold, LetGo, Patience, Surroundings, doomed, removal_move

DELETE = {"deletionPolicy": "Delete"}
DONE = {"node": "n1", "phase": "Done", "outcome": "Succeeded"}
HELD = {"finalizers": [names.FINALIZER_SET]}
DELETED = HELD | {"deletionTimestamp": rfc3339(T0)}


def told(reason: str, message: str = "why") -> dict[str, Any]:
    condition = {"type": "SetRemoved", "status": "False", "reason": reason, "message": message}
    return DONE | {"conditions": [condition | {"lastTransitionTime": rfc3339(T0)}]}


def around(*live: str, shared: bool = False) -> Surroundings:
    spaces = {node: (LocationSpace(node=node, location="nightly", ready=True),) for node in ("n1", "n2")}
    hosts = {node: host(node, vm(), locations=spaces[node]) for node in spaces}
    return Surroundings(hosts, live, {"nightly": location(directory={"path": "/srv/backups", "shared": shared})})


def move(one: VMBackup, *live: str, after_seconds: float = 0, shared: bool = False) -> object:
    return removal_move(doomed(one), around(*live, shared=shared), Patience(300, 900), T0 + after_seconds)


@pytest.mark.parametrize("status", [{}, {"node": "n1", "phase": "Copying"}, DONE])
def test_the_policy_is_held_from_the_beginning_since_a_deleted_resource_takes_no_finalizer(status: Any) -> None:
    assert move(backup(spec=DELETE, status=status), "n1") == Hold()
    assert move(backup(spec=DELETE, status=status, metadata=HELD), "n1") is None


def test_without_a_set_or_a_wish_there_is_nothing_to_hold() -> None:
    failed = DONE | {"outcome": "Failed"}
    assert move(backup(spec=DELETE, status=failed, metadata=HELD), "n1") == LetGo()
    assert move(backup(status=DONE, metadata=HELD), "n1") == LetGo()
    assert move(backup(status=DONE), "n1") is None


def test_a_deleted_one_waits_for_the_agent_and_goes_when_the_set_is_removed() -> None:
    assert move(backup(spec=DELETE, status=DONE, metadata=DELETED), "n1") is None
    removed = told("Removed")
    assert move(backup(spec=DELETE, status=removed, metadata=DELETED), "n1") == LetGo()
    kept = told("SetKept", "the last one")
    assert move(backup(spec=DELETE, status=kept, metadata=DELETED), "n1") == LetGo("the last one")


def test_a_location_that_is_away_holds_the_resource_for_minutes_only() -> None:
    one = backup(spec=DELETE, status=told("RemovalRecorded", "no mount"), metadata=DELETED)
    assert move(one, "n1", after_seconds=299) is None
    assert move(one, "n1", after_seconds=300) == LetGo("the set is not removed yet: no mount")


def test_a_node_that_never_comes_back_holds_the_resource_for_minutes_only() -> None:
    one = backup(spec=DELETE, status=DONE, metadata=DELETED)
    assert move(one, "n2", after_seconds=899) is None
    left = move(one, "n2", after_seconds=900)
    assert isinstance(left, LetGo)
    assert "the set stays there" in left.left


def test_another_node_that_sees_the_files_takes_over() -> None:
    one = backup(spec=DELETE, status=DONE, metadata=DELETED)
    assert move(one, "n2", shared=True) == HandOver("n2")
    assert move(one, "n1", "n2", shared=True) is None
    assert move(one, "n2", shared=False) is None
    assert move(one, shared=True) is None


def test_a_backup_under_way_is_not_let_go_before_its_vm_is_home() -> None:
    both = DELETED | {"finalizers": [names.FINALIZER, names.FINALIZER_SET]}
    copying = {"node": "n1", "phase": "Copying"}
    assert move(backup(spec=DELETE, status=copying, metadata=both), "n1", after_seconds=9999) is None


def test_deleted_before_it_began_or_abandoned_it_has_no_set() -> None:
    assert move(backup(spec=DELETE, metadata=DELETED), "n1") == LetGo()
    abandoned = {"node": "n1", "phase": "Copying"}
    assert move(backup(spec=DELETE, status=abandoned, metadata=DELETED), "n2") == LetGo()
