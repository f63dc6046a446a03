"""What a restore works on dies, fills up, or is used by somebody else."""

import time

from fault.machine import patiently
from fault.mounts import fill
from fault.restore_cell import RestoreCell
from fault.rows import rows
from fault.stage import PLAIN
from vmbackup.units import MIB

AWAY_SECONDS = 6


@rows(
    "libvirtd-sigkill",
    NewDomain=("Defining", "Starting"),
    InPlace=("Preparing", "Copying", "Placing", "Starting"),
    Instant=("Starting", "Pulling", "Defining"),
)
def test_libvirtd_is_killed_and_comes_back(restore: RestoreCell) -> None:
    restore.catch()
    restore.stage.kill_daemon()
    restore.stage.agent.go_on()
    time.sleep(1)
    restore.stage.start_daemon()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows("restored-qemu-sigkill", Instant=("Pulling", "Defining"))
def test_qemu_of_an_instant_vm_is_killed_and_its_data_is_complete_all_the_same(restore: RestoreCell) -> None:
    restore.runs = False  # it is defined, off, and on complete images: its owner starts it
    restore.catch()
    restore.box.kill_restored()
    restore.stage.agent.go_on()
    restore.fault_is_over()
    restore.ends("Succeeded", says="has ended" if restore.phase == "Pulling" else "")


@rows("restored-node-reboot", Instant=("Pulling", "Defining"))
def test_node_reboots_under_an_instant_vm(restore: RestoreCell) -> None:
    restore.runs = False
    restore.catch()
    restore.stage.agent.kill()
    restore.box.kill_restored(unseen=True)
    restore.stage.start_daemon()
    restore.stage.agent.start()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows("agent-killed-flattening", Instant=("Pulling",))
def test_agent_is_killed_while_it_completes_the_images_of_a_vm_that_died(restore: RestoreCell) -> None:
    restore.runs = False
    restore.catch()
    restore.box.kill_restored()
    restore.stage.agent.go_on()
    assert restore.hold_in("Pulling", lambda record: record["flattening"])
    restore.stage.agent.kill()
    restore.stage.agent.start()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows(
    "images-full-before", NewDomain=("Preparing",), Disks=("Preparing",), InPlace=("Preparing",), Instant=("Preparing",)
)
def test_too_little_room_for_the_images_from_the_start(restore: RestoreCell) -> None:
    ballast = fill(restore.stage.images, 4 * MIB)
    restore.begin()
    restore.fault_is_over()
    restore.until_over()
    restore.ends("Refused", "Failed", reason="NotEnoughSpace", says="free")
    ballast.unlink()


@rows("images-full", NewDomain=("Copying",), Disks=("Copying",), InPlace=("Copying",))
def test_images_fill_their_file_system_to_the_last_byte(restore: RestoreCell) -> None:
    restore.catch()
    ballast = fill(restore.stage.images)
    restore.stage.agent.go_on()
    restore.fault_is_over()
    restore.until_over()
    ballast.unlink()
    restore.ends("Failed", says=f"{restore.stage.images}/.*No space left")


@rows("images-full-for-a-while", Instant=("Pulling",))
def test_pulled_data_finds_no_room_until_the_administrator_makes_some(restore: RestoreCell) -> None:
    restore.catch()
    ballast = fill(restore.stage.images)
    restore.stage.agent.go_on()
    time.sleep(AWAY_SECONDS)
    ballast.unlink()
    restore.fault_is_over()
    restore.ends("Succeeded")


@rows("vm-started", InPlace=("Copying", "Placing"))
def test_vm_is_started_while_its_disks_are_replaced(restore: RestoreCell) -> None:
    restore.catch(**({"when": restore.is_half_placed} if restore.phase == "Placing" else {}))
    restore.box.start()
    restore.stage.agent.go_on()
    time.sleep(3)
    restore.box.stop()  # its owner shuts it down again
    restore.fault_is_over()
    restore.ends("Failed", reason="VMRunning", says="[Ss]hut it down|was started|runs")


@rows("vm-started-agent-away", InPlace=("Placing",))
def test_vm_is_started_on_half_of_its_disks_while_the_agent_is_away(restore: RestoreCell) -> None:
    restore.catch(when=restore.is_half_placed)
    restore.stage.agent.kill()
    restore.box.start()
    restore.stage.agent.start()
    told = patiently(lambda: "hut it down" in str(restore.body().get("status")), 30)
    assert told, f"nobody is told to shut it down\n{restore.all_that_is_known()}"
    restore.box.stop()
    restore.fault_is_over()
    restore.ends("Failed", reason="VMRunning")


@rows("set-location-away", NewDomain=("Copying", "Verifying"), InPlace=("Placing",), Instant=("Preparing", "Cleaning"))
def test_location_of_the_set_is_away_for_a_while(restore: RestoreCell) -> None:
    restore.catch()
    location = restore.stage.directory(PLAIN)
    away = location.rename(location.with_name("away"))
    restore.stage.agent.go_on()
    time.sleep(AWAY_SECONDS)
    away.rename(location)
    restore.fault_is_over()
    restore.ends("Succeeded", "Failed", "Refused")
