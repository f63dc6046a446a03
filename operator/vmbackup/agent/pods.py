"""VMs of KubeVirt on this node: from a VMBackup to the launcher pod that has its VM.

Everything comes from the VirtualMachineInstance, read afresh, and is checked against the pod: the VM must be there
under the name `<namespace>_<name>`, whatever its status says.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Launcher, Run
from vmbackup.api.vmbackup import VMBackup
from vmbackup.api.vmi import VirtualMachineInstance
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMI, Resources
from vmbackup.core.facts import DomainFacts
from vmbackup.core.ports import Hypervisor
from vmbackup.core.rescue import abandoned, rescue
from vmbackup.core.verdicts import Found
from vmbackup.core.vmis import domain_of, find_vmi
from vmbackup.errors import NotYet, Refused, VMBackupError
from vmbackup.hypervisor import pods
from vmbackup.hypervisor.launcher import Daemons, launcher
from vmbackup.store.mounts import Mount, Mounts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A VM as it is now, and the daemon that runs it: in a pod, or that of the node."""

    hypervisor: Hypervisor
    domain: DomainFacts
    launcher: Launcher | None = None


class LauncherPods:
    """Finds launcher pods of this node by the VirtualMachineInstances that VMBackups name."""

    def __init__(self, resources: Resources, daemons: Daemons, mounts: Mounts, node: str) -> None:
        self._resources, self.daemons, self._mounts, self._node = resources, daemons, mounts, node

    def place(self, backup: VMBackup) -> Place:
        """Return where the VM is.

        Raises:
            NotYet: it must be waited for: it migrates, is backed up by KubeVirt, or its daemon is away.
            Refused: there is no such VM on this node, or its pod cannot be served.
        """
        namespace, name = backup.metadata.namespace, backup.spec.source.name
        vmi = self._read(namespace, name)
        found = find_vmi(vmi, name)
        if not isinstance(found, Found):
            raise NotYet(found.reason, found.message)
        if found.node != self._node:
            raise Refused(
                Reason.VM_NOT_FOUND,
                f"VirtualMachineInstance {name} has moved to node {found.node}, and this backup is bound to node "
                f"{self._node}. Make a new VMBackup.",
            )
        pod = launcher(self._pod(vmi))
        hypervisor = self.daemons.of(pod)
        domain = hypervisor.find(domain_of(namespace, name))
        if domain.state == "absent":
            raise Refused(
                Reason.VM_NOT_FOUND,
                f"launcher pod {pod.pod_uid} of VirtualMachineInstance {name} has no VM {domain.name}.",
            )
        return Place(hypervisor, domain, pod)

    def strays(self, known: Callable[[], Collection[str]], now: float) -> Iterator[Run]:
        """Yield a run for every mount that a lost journal has left: it ends the job, unmounts, and removes the set.

        known: the UIDs of the runs in the journal; asked after the look at the mounts, since each has its record first.
        """
        mounts = {mount.backup_uid: mount for mount in self._mounts.every()}
        recorded = known() if mounts else ()
        for uid, mount in mounts.items():
            if uid in recorded:
                continue
            try:
                run = self._rescue(mount, recorded, now)
            except VMBackupError as error:
                log.info("launcher pod %s cannot be looked at now: %s", mount.pod_uid, error.message)
                continue
            yield run.model_copy(update={"location_path": mount.location, "set_path": mount.set_path})

    def _rescue(self, mount: Mount, known: Collection[str], now: float) -> Run:
        """Raises: NotYet: the pod's daemon is away. Refused."""
        if not pods.alive(mount.pod_uid):
            gone = Launcher(pod_uid=mount.pod_uid, directory="", owner_uid=0, owner_gid=0)
            return abandoned(DomainFacts("", "", "absent"), mount.backup_uid, mount.attempt, gone, now)
        pod = launcher(mount.pod_uid)
        daemon = self.daemons.of(pod)
        domains = [daemon.find(vm.domain) for vm in daemon.vms() if vm.running]
        runs = (rescue(domain, known, now, pod) for domain in domains)
        domain = domains[0] if domains else DomainFacts("", "", "absent")
        left = abandoned(domain, mount.backup_uid, mount.attempt, pod, now)
        return next((run for run in runs if run is not None), left)

    def _read(self, namespace: str, name: str) -> VirtualMachineInstance:
        try:
            return VirtualMachineInstance.model_validate(self._resources.get(VMI, name, namespace))
        except NotFound:
            message = f"there is no VirtualMachineInstance {name} in namespace {namespace} any more."
            raise Refused(Reason.VM_NOT_FOUND, message) from None
        except ValidationError as error:
            message = f"VirtualMachineInstance {name} cannot be read: {error.errors()[0]['msg']}"
            raise NotYet(Reason.WAITING_FOR_VM, message) from None

    def _pod(self, vmi: VirtualMachineInstance) -> str:
        """Return the one launcher pod of the VM that is alive on this node; those that have ended stay listed."""
        name = vmi.metadata.name
        alive = [uid for uid in vmi.status.pods_on(self._node) if pods.is_pod_uid(uid) and pods.alive(uid)]
        if not alive:
            raise NotYet(
                Reason.HYPERVISOR_AWAY,
                f"VirtualMachineInstance {name} has no running launcher pod on node {self._node} (the agent must share "
                "the PID namespace of the host: hostPID).",
            )
        if len(alive) > 1:
            words = f"VirtualMachineInstance {name} has {len(alive)} running launcher pods on node {self._node}"
            raise NotYet(Reason.FOREIGN_JOB, f"{words}, so it migrates or is being replaced; it is waited for.")
        return alive[0]
