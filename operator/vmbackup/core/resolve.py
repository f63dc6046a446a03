"""Which VM a VMBackup means, and on which node it is now.

A VM of another namespace looks exactly like one that is not there.
"""

from collections.abc import Collection, Iterable, Mapping

from vmbackup.api.conditions import Reason
from vmbackup.api.host import HostedVM, VMHost
from vmbackup.api.vmbackup import SourceKind, VMBackup
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.core.verdicts import Found, NotFound
from vmbackup.core.vmis import find_vmi

__all__ = ["Found", "Inventory", "NotFound", "VMIs"]


VMIs = Mapping[tuple[str, str], VirtualMachineInstance]  # by namespace and name


class Inventory:
    """The VMs of all nodes by namespace and name."""

    def __init__(self, hosts: Mapping[str, VMHost], live_nodes: Collection[str], vmis: VMIs) -> None:
        self._live, self._vmis = frozenset(live_nodes), vmis
        self._vms: dict[tuple[str, str], list[tuple[str, HostedVM]]] = {}
        for node in sorted(hosts):
            for vm in hosts[node].status.vms:
                if vm.namespace:
                    self._vms.setdefault((vm.namespace, vm.name), []).append((node, vm))

    def find(self, backup: VMBackup) -> Found | NotFound:
        """Return the VM that the backup names, or why there is none."""
        source = backup.spec.source
        if source.kind is SourceKind.VMI:
            return find_vmi(self._vmis.get((backup.metadata.namespace, source.name)), source.name)
        known = self._vms.get((backup.metadata.namespace, source.name), ())
        seen = [(node, vm) for node, vm in known if source.node in (None, node)]
        if not seen:
            return self._missing(source.name, source.node)
        uuids = {vm.uuid for _, vm in seen}
        if len(uuids) > 1:
            return _ambiguous(source.name, seen)
        if len(seen) == 1:
            return _found(*seen[0])
        return self._one_of(source.name, seen)

    def uuid(self, backup: VMBackup, node: str) -> str | None:
        """Return the UUID of a bound backup's VM, None when its node does not list it."""
        key = (backup.metadata.namespace, backup.spec.source.name)
        if backup.spec.source.kind is SourceKind.VMI:
            vmi = self._vmis.get(key)
            return vmi.metadata.uid if vmi else None
        vms = self._vms.get(key, ())
        return next((vm.uuid for at, vm in vms if at == node), None)

    def _one_of(self, name: str, seen: list[tuple[str, HostedVM]]) -> Found | NotFound:
        """Choose among nodes that list the same VM: it migrates, or was started elsewhere after its node died."""
        running = [(node, vm) for node, vm in seen if vm.running]
        live = [(node, vm) for node, vm in running if node in self._live]
        if len(live) == 1:
            return _found(*live[0])
        if len(running) == 1:
            return _found(*running[0])
        if not running:
            return _found(*next((at for at in seen if at[0] in self._live), seen[0]))
        nodes = _listed(node for node, _ in running)
        return NotFound(Reason.WAITING_FOR_VM, f"VM {name} is seen running on the nodes {nodes} at once.")

    def _missing(self, name: str, node: str | None) -> NotFound:
        if node is not None and node not in self._live:
            return NotFound(Reason.NODE_LOST, f"The agent of node {node} is silent: start it, or correct source.node.")
        where = f"on node {node}" if node else "on any node"
        return NotFound(Reason.WAITING_FOR_VM, f"No VM {name} of this namespace is seen {where}.")


def _found(node: str, vm: HostedVM) -> Found:
    return Found(node, vm.uuid, vm.running)


def _ambiguous(name: str, seen: list[tuple[str, HostedVM]]) -> NotFound:
    nodes = sorted({node for node, _ in seen})
    if len(nodes) == 1:
        domains = _listed(f"{vm.domain} ({vm.uuid})" for _, vm in seen)
        message = f"Node {nodes[0]} has several domains for the name {name}: {domains}. Rename one of them."
    else:
        message = f"VMs named {name} are on the nodes {_listed(nodes)}: say which one with source.node."
    return NotFound(Reason.VM_AMBIGUOUS, message, final=True)


def _listed(words: Iterable[str], most: int = 10) -> str:
    every = sorted(words)
    shown = ", ".join(every[:most])
    return f"{shown} and {len(every) - most} more" if len(every) > most else shown
