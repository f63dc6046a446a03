"""Where a VM of KubeVirt is, and what it must be waited for. Asked by the controller, and again by the agent."""

from vmbackup.api.conditions import Reason
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.core.verdicts import Found, NotFound


def domain_of(namespace: str, name: str) -> str:
    """Return the libvirt domain of a VirtualMachineInstance; neither name can hold a `_`."""
    return f"{namespace}_{name}"


def find_vmi(vmi: VirtualMachineInstance | None, name: str) -> Found | NotFound:
    """Return the node of a VirtualMachineInstance that can be backed up now, or why it cannot."""
    if vmi is None:
        return NotFound(
            Reason.WAITING_FOR_VM, f"No VirtualMachineInstance {name} (kubevirt.io/v1) is seen in this namespace."
        )
    status = vmi.status
    if not status.running or vmi.metadata.deletion_timestamp:
        phase = "being deleted" if vmi.metadata.deletion_timestamp else status.phase or "not scheduled yet"
        return NotFound(Reason.VM_NOT_RUNNING, f"VirtualMachineInstance {name} is {phase}, not Running: start it.")
    busy = _migration(vmi) or _native_backup(vmi)
    if busy:
        return NotFound(Reason.FOREIGN_JOB, f"VirtualMachineInstance {name}: {busy}; it is waited for.")
    return Found(status.node_name, vmi.metadata.uid, running=True)


def _migration(vmi: VirtualMachineInstance) -> str:
    """Return the migration that is under way. The pod that a finished one has left stays in `activePods` for long."""
    status, state = vmi.status, vmi.status.migration_state
    if state is not None and not state.over:
        return f"it is migrating to {(state.target_node and f'node {state.target_node}') or 'another node'}"
    elsewhere = sorted({node for node in (status.active_pods or {}).values() if node != status.node_name})
    if elsewhere and state is None:
        return f"it has launcher pods on node {status.node_name} and on {elsewhere[0] or 'no node yet'}, so it migrates"
    return ""


def _native_backup(vmi: VirtualMachineInstance) -> str:
    tracking = vmi.status.changed_block_tracking
    native = tracking.backup_status if tracking else None
    return "" if native is None or native.over else f"KubeVirt's own backup {native.backup_name} is running"
