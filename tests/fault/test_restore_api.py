"""The API server is away, and what was asked for is taken back; the set is asked for by others."""

import time

from fault.box import NAME
from fault.machine import NAMESPACE, patiently
from fault.restore_cell import RestoreCell
from fault.rows import rows
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMBACKUP

AWAY_SECONDS = 6
PATIENCE_SECONDS = 90.0


@rows("api-away", NewDomain=("Copying", "Defining"), InPlace=("Placing",), Instant=("Starting", "Pulling", "Cleaning"))
def test_restore_goes_on_without_the_api_server(restore: RestoreCell) -> None:
    restore.catch()
    restore.stage.front.hang_up()
    restore.stage.agent.go_on()
    time.sleep(AWAY_SECONDS)
    restore.stage.front.answer()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows("api-away-agent-killed", Disks=("Copying",), InPlace=("Placing",), Instant=("Pulling",))
def test_agent_is_killed_while_the_api_server_is_away(restore: RestoreCell) -> None:
    restore.catch()
    restore.stage.front.hang_up()
    restore.stage.agent.kill()
    restore.stage.agent.start()
    time.sleep(AWAY_SECONDS)
    restore.stage.front.answer()
    restore.stage.agent.start()  # as a kubelet does, if it has ended
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows(
    "vmrestore-deleted",
    NewDomain=("Preparing", "Copying", "Placing", "Defining"),
    Disks=("Copying", "Placing"),
    InPlace=("Copying", "Placing", "Starting"),
    Instant=("Starting", "Pulling"),
)
def test_vmrestore_is_deleted_meanwhile(restore: RestoreCell) -> None:
    """An instant VM that runs is brought to its end; every other restore is wholly there or wholly undone."""
    restore.catch()
    restore.delete()
    restore.stage.agent.go_on()
    restore.fault_is_over()
    restore.vanishes()
    if restore.phase == "Copying":
        assert not restore.box.runs(NAME)


@rows("set-deleted", NewDomain=("Copying",), Instant=("Starting", "Pulling"))
def test_set_in_use_outlives_its_vmbackup(restore: RestoreCell) -> None:
    """The set goes when the restore is over, and not before."""
    box, first = restore.box, restore.box.set
    box.set = box.back_up("doomed", deletionPolicy="Delete")
    try:
        restore.catch(source={"backup": "doomed"})
        restore.stage.client.call("DELETE", VMBACKUP.path("doomed", NAMESPACE))
        restore.stage.agent.go_on()
        restore.set_stays_until_over()
        gone = patiently(lambda: not box.set.exists() and is_gone(restore), PATIENCE_SECONDS)
        assert gone, f"the set or its VMBackup stays\n{restore.all_that_is_known()}"
        restore.forget_set()
        box.set = first
        restore.ends("Succeeded")
    finally:
        box.set = first


def is_gone(restore: RestoreCell) -> bool:
    try:
        restore.stage.resources.get(VMBACKUP, "doomed", NAMESPACE)
    except NotFound:
        return True
    return False
