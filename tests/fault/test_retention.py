"""Retention lets go of a set that a restore works on."""

import time
from collections.abc import Iterator

import pytest

from fault.box import SHORT_NAME, Box
from fault.machine import NAMESPACE, patiently
from fault.restore_cell import RestoreCell
from fault.rows import rows
from fault.stage import PLAIN, Stage
from integration.libvirt.machines import wait_until
from vmbackup.api import names
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP

NAME = "pruning"
PATIENCE_SECONDS = 90.0


@pytest.fixture
def older(whole_stage: Stage, box: Box) -> Iterator[str]:
    """The VMBackup of the older of two sets of a schedule, whose retention looks on."""
    spec = {
        "schedule": "0 0 1 1 *",
        "vms": {"names": [SHORT_NAME]},
        "template": {"spec": {"location": PLAIN}},
        "retention": {"keepLast": 1, "dryRun": True},
    }
    metadata = {"name": NAME, "namespace": NAMESPACE}
    body = {"apiVersion": names.API_VERSION, "kind": SCHEDULE.name, "metadata": metadata, "spec": spec}
    whole_stage.client.create(SCHEDULE.collection(NAMESPACE), body)
    box.start()
    made = [run(whole_stage, trigger) for trigger in ("one", "two")]
    box.stop()
    yield made[0]
    whole_stage.client.call("DELETE", SCHEDULE.path(NAME, NAMESPACE))


def run(stage: Stage, trigger: str) -> str:
    """Return the name of the VMBackup of a triggered run, when it has succeeded."""
    before = set(children(stage))
    change(stage, trigger=trigger)

    def succeeded() -> list[str]:
        return [name for name, outcome in children(stage).items() if name not in before and outcome == "Succeeded"]

    found = patiently(succeeded, PATIENCE_SECONDS)
    assert found, f"trigger {trigger} made no set\n{stage.logs()}"
    ended = time.time()
    wait_until(lambda: time.time() > ended + 1, "times of sets are whole seconds: the next one is newer")
    return str(found[0])


def children(stage: Stage) -> dict[str, str]:
    """Return the outcomes of the schedule's VMBackups by name."""
    found = stage.client.list(VMBACKUP.collection(NAMESPACE))
    mine = [one for one in found if (one["metadata"].get("labels") or {}).get(names.LABEL_SCHEDULE) == NAME]
    return {one["metadata"]["name"]: one.get("status", {}).get("outcome", "") for one in mine}


def change(stage: Stage, **spec: object) -> None:
    stage.client.patch(SCHEDULE.path(NAME, NAMESPACE), {"spec": spec})


@rows("set-pruned", NewDomain=("Copying",), Instant=("Starting", "Pulling"))
def test_retention_waits_for_a_restore_that_needs_the_set(restore: RestoreCell, older: str) -> None:
    stage, first = restore.stage, restore.box.set
    status = stage.resources.get(VMBACKUP, older, NAMESPACE)["status"]
    restore.box.set = stage.directory(PLAIN) / status["set"]
    try:
        restore.catch(source={"backup": older})
        change(stage, retention={"keepLast": 1, "dryRun": False})
        stage.agent.go_on()
        restore.set_stays_until_over()
        gone = patiently(lambda: not restore.box.set.exists() and older not in children(stage), PATIENCE_SECONDS)
        assert gone, f"the set or its VMBackup stays\n{restore.all_that_is_known()}"
        restore.forget_set()
        restore.box.set = first
        restore.ends("Succeeded")
    finally:
        restore.box.set = first
