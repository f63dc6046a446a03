"""What a VirtualMachineInstance says: where its VM is, and what must be waited for."""

from typing import Any

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.core.verdicts import Found, NotFound
from vmbackup.core.vmis import domain_of, find_vmi

HERE, THERE = "3c7d2c50-0000-4000-8000-00000000000a", "3c7d2c50-0000-4000-8000-00000000000b"
RUNNING: dict[str, Any] = {"phase": "Running", "nodeName": "n1", "activePods": {HERE: "n1"}}


def vmi(metadata: dict[str, Any] | None = None, **status: Any) -> VirtualMachineInstance:
    head = {"name": "web", "namespace": "team-a", "uid": "vmi-uid", **(metadata or {})}
    return VirtualMachineInstance.model_validate({"metadata": head, "status": {**RUNNING, **status}})


def obstacle(found: Found | NotFound) -> tuple[Reason, str]:
    assert isinstance(found, NotFound)
    return found.reason, found.message


def test_running_one_is_found_on_its_node() -> None:
    assert find_vmi(vmi(), "web") == Found("n1", "vmi-uid", running=True)
    assert domain_of("team-a", "web") == "team-a_web"


def test_one_that_is_not_there_may_come() -> None:
    assert obstacle(find_vmi(None, "web"))[0] is Reason.WAITING_FOR_VM


@pytest.mark.parametrize(
    "seen",
    [
        vmi(phase="Scheduling"),
        vmi(phase="Succeeded"),
        vmi(phase=""),
        vmi(nodeName=""),
        vmi({"deletionTimestamp": "2026-11-23T10:00:00Z"}),
    ],
)
def test_one_that_does_not_run_is_waited_for(seen: VirtualMachineInstance) -> None:
    assert obstacle(find_vmi(seen, "web"))[0] is Reason.VM_NOT_RUNNING


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"migrationState": {"targetNode": "n2"}}, "migrating to node n2"),
        ({"migrationState": {"startTimestamp": "2026-11-23T10:00:00Z"}}, "migrating to another node"),
        ({"activePods": {HERE: "n1", THERE: "n2"}}, "launcher pods on node n1 and on n2"),
        ({"activePods": {HERE: "n1", THERE: ""}}, "no node yet"),
        ({"changedBlockTracking": {"state": "Enabled", "backupStatus": {"backupName": "own"}}}, "own backup own"),
    ],
)
def test_work_of_kubevirt_is_waited_for_with_its_name(status: dict[str, Any], words: str) -> None:
    reason, message = obstacle(find_vmi(vmi(**status), "web"))
    assert reason is Reason.FOREIGN_JOB
    assert words in message


@pytest.mark.parametrize(
    "status",
    [
        # The pod that a migration has left stays listed for as long as its object does.
        {"activePods": {HERE: "n1", THERE: "n2"}, "migrationState": {"completed": True}},
        {"activePods": {HERE: "n1", THERE: "n2"}, "migrationState": {"endTimestamp": "2026-11-23T10:00:00Z"}},
        {"migrationState": {"failed": True}},
        {"migrationState": None},
        {"activePods": None},
        {"changedBlockTracking": {"state": "Enabled"}},
        {"changedBlockTracking": {"backupStatus": {"backupName": "own", "completed": True}}},
        {"changedBlockTracking": {"backupStatus": {"backupName": "own", "failed": True}}},
        {"changedBlockTracking": {"backupStatus": None}},
        {"unknownField": {"deep": [1]}},
    ],
)
def test_work_of_kubevirt_that_is_over_is_not_waited_for(status: dict[str, Any]) -> None:
    assert isinstance(find_vmi(vmi(**status), "web"), Found)


def test_pods_of_other_nodes_are_not_this_nodes() -> None:
    assert vmi(activePods={HERE: "n1", THERE: "n2"}).status.pods_on("n2") == (THERE,)
