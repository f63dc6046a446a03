"""The Hypervisor port on a real libvirt daemon."""

from collections.abc import Callable
from typing import NamedTuple

import libvirt

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.core.facts import DomainFacts, HostFacts
from vmbackup.core.steps import (
    AbortJob,
    BeginPush,
    DrainStatistics,
    FreezeGuest,
    HypervisorStep,
    LimitSpeed,
    Pivot,
    ResumeGuest,
    StartCommit,
    TakeSnapshot,
    ThawGuest,
)
from vmbackup.errors import Failed
from vmbackup.hypervisor import perform
from vmbackup.hypervisor.connection import Connections, fresh_connection
from vmbackup.hypervisor.domain_xml import confined_by_apparmor, read_owner
from vmbackup.hypervisor.failures import attempt, is_code
from vmbackup.hypervisor.freeze import Freezer
from vmbackup.hypervisor.instance import Instances
from vmbackup.hypervisor.observe import observe
from vmbackup.hypervisor.speed import limit_speed
from vmbackup.hypervisor.watch import Watch


class KnownDomain(NamedTuple):
    """One domain of the node. `owner`: the namespace in its metadata, None when it has no such element."""

    domain: str
    uuid: str
    running: bool
    owner: str | None


class Libvirtd:
    """One libvirt daemon. Thread safe: meant for one worker thread per VM, which never waits for another's."""

    def __init__(self, uri: str, *, may_use_monitor: bool = False, instances: Instances | None = None) -> None:
        """`may_use_monitor`: QEMU may be spoken to directly where libvirt lets no speed limit through.

        Nothing is opened before the first call.
        """
        self._uri = uri
        self._may_use_monitor = may_use_monitor
        self._connections = Connections(uri)
        self._instances = instances or Instances()
        self._freezer = Freezer(uri)

    def host(self) -> HostFacts:
        """Return the versions of the daemon and of QEMU. Raises: NotYet: the daemon is away."""
        with attempt(f"Asking {self._uri} for its versions"):
            connection = self._connections.get()
            return HostFacts(
                libvirt_version=connection.getLibVersion(),
                hypervisor_version=connection.getVersion(),
                may_use_monitor=self._may_use_monitor,
                confined_by_apparmor=confined_by_apparmor(connection.getCapabilities()),
            )

    def vms(self) -> list[KnownDomain]:
        """Return every domain of the daemon, running or not. Raises: NotYet: the daemon is away."""
        with attempt(f"Listing the VMs of {self._uri}"):
            listed = self._connections.get().listAllDomains()
            return [known for domain in listed if (known := _known(domain)) is not None]

    def watch(self, callback: Callable[[str], None]) -> Watch:
        """Call `callback` with a VM's UUID whenever something happened to it, until the watch is stopped.

        It is called in threads of libvirt's and must only enqueue.
        """
        return Watch(self._uri, callback)

    def find(self, domain: str) -> DomainFacts:
        """Return all that libvirt says of a domain; `state="absent"` when it knows none of that name.

        Raises: NotYet: the daemon is away, or the VM is locked by another operation.
        """
        return self._look(domain, "", lambda connection: connection.lookupByName(domain))

    def observe(self, run: Run) -> DomainFacts:
        """Return all that libvirt says of the VM of a run, found by its UUID.

        Raises: NotYet: the daemon is away, or the VM is locked by another operation.
        """
        return self._look(
            run.domain, run.domain_uuid, lambda connection: connection.lookupByUUIDString(run.domain_uuid)
        )

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        """Do one act. Raises: NotYet: the daemon is away. Failed, Refused: it was tried and did not succeed."""
        match step:
            case ThawGuest():
                return self._freezer.thaw(run)
            case FreezeGuest():
                self._freezer.freeze(run, step.limit_seconds)
            case LimitSpeed():
                limit_speed(self._uri, run.domain_uuid, step, may_use_monitor=self._may_use_monitor)
            case AbortJob():
                self._abort(run)
            case _:
                self._act(self._domain(run), run, step)
        return None

    def domain_xml(self, run: Run) -> str:
        """Return the domain's XML as libvirt would need it to define the VM again, without its passwords.

        Raises: NotYet: the daemon is away. Failed: no such VM.
        """
        domain = self._domain(run)
        with attempt(f"VM {run.domain}: reading its definition"):
            return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    @staticmethod
    def _act(
        domain: libvirt.virDomain,
        run: Run,
        step: DrainStatistics | BeginPush | TakeSnapshot | StartCommit | Pivot | ResumeGuest,
    ) -> None:
        match step:
            case DrainStatistics():
                perform.drain_statistics(domain)
            case BeginPush():
                perform.begin_push(domain, run, step)
            case TakeSnapshot():
                perform.take_snapshot(domain, run, step)
            case StartCommit():
                perform.start_commit(domain, run, step)
            case Pivot():
                perform.pivot(domain, run, step)
            case ResumeGuest():
                perform.resume_guest(domain, run)

    def _abort(self, run: Run) -> None:
        with fresh_connection(self._uri) as connection, attempt(f"VM {run.domain}: aborting the push backup"):
            try:
                domain = connection.lookupByUUIDString(run.domain_uuid)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    return  # no VM, no job
                raise
            perform.abort_job(domain, run)

    def _domain(self, run: Run) -> libvirt.virDomain:
        with attempt(f"VM {run.domain}"):
            return self._connections.get().lookupByUUIDString(run.domain_uuid)

    def _look(self, name: str, uuid: str, lookup: Callable[[libvirt.virConnect], libvirt.virDomain]) -> DomainFacts:
        try:
            with attempt(f"Looking for VM {name}"):
                domain = lookup(self._connections.get())
            return observe(domain, self._instances)
        except Failed as error:
            if error.reason != Reason.VM_NOT_FOUND:
                raise
            return DomainFacts(name, uuid, "absent")


def _known(domain: libvirt.virDomain) -> KnownDomain | None:
    try:
        return KnownDomain(domain.name(), domain.UUIDString(), bool(domain.isActive()), _owner(domain))
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
            return None  # undefined since it was listed
        raise


def _owner(domain: libvirt.virDomain) -> str | None:
    try:
        return read_owner(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, names.METADATA_NAMESPACE))
    except Failed:
        return ""  # an element that cannot be read: somebody meant to restrict the VM
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN_METADATA):
            return None
        raise
