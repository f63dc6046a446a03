"""KubeVirt-style VMs: the Hypervisor port on the libvirt daemon in a launcher pod, one daemon per VM."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

import libvirt

from vmbackup.api.journal import Launcher
from vmbackup.core.facts import DomainFacts, HostFacts
from vmbackup.errors import NotYet
from vmbackup.hypervisor import pods
from vmbackup.hypervisor.instance import Instances
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.hypervisor.timing import TimedLibvirtd, Took, untold


class PodLibvirtd(TimedLibvirtd):
    """The daemon of one launcher pod; a VM whose pod is gone is absent. QEMU is looked for in the pod only."""

    def __init__(self, pod_uid: str, took: Took = untold, *, may_use_monitor: bool = False) -> None:
        self._pod_uid = pod_uid
        instances = Instances(pids=partial(pods.processes, pod_uid))
        super().__init__(pods.address(pod_uid), took, may_use_monitor=may_use_monitor, instances=instances)

    def host(self) -> HostFacts:
        try:
            return replace(super().host(), in_pod=True)
        except NotYet:
            if pods.alive(self._pod_uid):
                raise
            return HostFacts(0, 0, in_pod=True)  # nobody is left to ask; that the VM is absent is found first

    def _look(self, name: str, uuid: str, lookup: Callable[[libvirt.virConnect], libvirt.virDomain]) -> DomainFacts:
        try:
            return super()._look(name, uuid, lookup)
        except NotYet:
            if pods.alive(self._pod_uid):
                raise
            return DomainFacts(name, uuid, "absent")


class Daemons:
    """The libvirt daemons of this node: its own, and one per launcher pod; those are kept as long as they are used."""

    def __init__(self, own: Libvirtd, took: Took = untold, *, may_use_monitor: bool = False) -> None:
        self.own, self._took = own, took
        self._may_use_monitor = may_use_monitor
        self._of_pods: WeakValueDictionary[str, PodLibvirtd] = WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, launcher: Launcher | None) -> Libvirtd:
        """Return the daemon that runs a VM."""
        return self.own if launcher is None else self.of_pod(launcher.pod_uid)

    def of_pod(self, pod_uid: str) -> PodLibvirtd:
        with self._lock:
            known = self._of_pods.get(pod_uid)
            if known is None:
                known = self._of_pods[pod_uid] = PodLibvirtd(pod_uid, self._took, may_use_monitor=self._may_use_monitor)
            return known


def launcher(pod_uid: str) -> Launcher:
    """Return what a run must know of a pod. Raises: NotYet: it has no daemon now. Refused: it cannot be served."""
    daemon = pods.daemon_of(pod_uid)
    return Launcher(pod_uid=pod_uid, directory=daemon.directory, owner_uid=daemon.uid, owner_gid=daemon.gid)
