"""QEMU dies, the guest shuts down, somebody destroys or restarts the domain, the whole node goes down."""

import time

from fault.cell import Cell
from fault.rows import ON_OVERLAY, PUSH, SNAPSHOT, column

STOPPED = "stopped|not running|interrupted|Interrupted|backed up"


@column("qemu-sigkill", push=PUSH, snapshot=SNAPSHOT)
def test_qemu_is_killed_and_the_vm_started_again(cell: Cell) -> None:
    cell.catch()
    cell.machine.vm.kill_qemu()
    cell.stage.agent.go_on()
    time.sleep(1)  # the agent meets the dead VM
    cell.vm_comes_back()
    cell.until_home()
    cell.ends(says=STOPPED)


@column("guest-shuts-down", push=("Copying",), snapshot=("Copying", "Committing"))
def test_guest_shuts_down_from_inside(cell: Cell) -> None:
    cell.catch()
    cell.machine.in_guest("poweroff -f")
    cell.machine.until_off()
    cell.stage.agent.go_on()
    time.sleep(1)
    cell.vm_comes_back()
    cell.until_home()
    cell.ends(says=STOPPED)


@column("domain-destroyed", push=("Copying",), snapshot=("Copying", "Pivoting"))
def test_domain_is_destroyed(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.go_on()
    cell.machine.vm.stop()
    time.sleep(1)
    cell.vm_comes_back()
    cell.until_home()
    cell.ends(says=STOPPED)


@column("domain-restarted-agent-away", push=("Starting", "Copying"), snapshot=ON_OVERLAY)
def test_domain_is_restarted_while_the_agent_is_away(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    cell.machine.vm.kill_qemu()
    cell.vm_comes_back()
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says=STOPPED)


@column("node-reboot-vm-first", push=PUSH, snapshot=SNAPSHOT)
def test_node_reboots_and_the_vm_is_started_before_the_agent(cell: Cell) -> None:
    cell.catch()
    reboot(cell)
    cell.vm_comes_back()
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.ends(says=STOPPED)


@column("node-reboot-agent-first", push=("Copying",), snapshot=ON_OVERLAY)
def test_node_reboots_and_the_vm_is_started_after_the_agent(cell: Cell) -> None:
    cell.catch()
    reboot(cell)
    cell.stage.agent.start()
    time.sleep(6)  # the agent is up and finds the VM off
    cell.vm_comes_back()
    cell.until_home()
    cell.ends(says=STOPPED)


def reboot(cell: Cell) -> None:
    """Kill agent, daemon and QEMU at once; the daemon is the first to be back."""
    cell.stage.agent.kill()
    cell.machine.kill_qemu_unseen(cell.stage.kill_daemon)
    cell.stage.start_daemon()
