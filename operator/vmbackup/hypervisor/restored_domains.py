"""The RestoreHypervisor port on a real libvirt daemon."""

import json
import os
from collections.abc import Callable

import libvirt
import libvirt_qemu

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import LIVE_KINDS, RestoreRun
from vmbackup.api.restore_spec import MACAddresses
from vmbackup.core.facts import DomainFacts
from vmbackup.core.restore_facts import (
    Define,
    FlushDisks,
    Heartbeat,
    RemoveDomain,
    RestoreDomainStep,
    ResumeDomain,
    StartDomain,
    StartPull,
)
from vmbackup.errors import Failed
from vmbackup.hypervisor.connection import Connections
from vmbackup.hypervisor.domain_xml import parse
from vmbackup.hypervisor.failures import attempt, is_code
from vmbackup.hypervisor.instance import Instances
from vmbackup.hypervisor.observe import observe_lightly, read_live
from vmbackup.hypervisor.restored_xml import Isolation, NewVM, restored_xml
from vmbackup.units import parse_bytes

NVRAM_FILE, SERIAL_FILE = "nvram.fd", "serial.log"
PING_SECONDS = 2
UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
)


class RestoredDomains:
    """Domains that restores make or start, found by the UUID that was written down before they were made."""

    def __init__(self, uri: str, set_xml: Callable[[RestoreRun], str]) -> None:
        """`set_xml` returns the definition that a set holds."""
        self._connections = Connections(uri)
        self._instances = Instances()
        self._set_xml = set_xml

    def observe(self, run: RestoreRun) -> DomainFacts:
        """Raises: NotYet: the daemon is away, or the VM is locked by another operation."""
        domain = self._lookup(run)
        if domain is None:
            return DomainFacts(run.domain, run.domain_uuid, "absent")
        try:
            return observe_lightly(domain, self._instances, self._pulled(run))
        except Failed as error:
            if error.reason != Reason.VM_NOT_FOUND:
                raise
            return DomainFacts(run.domain, run.domain_uuid, "absent")

    @staticmethod
    def _pulled(run: RestoreRun) -> list[str]:
        return [disk.target for disk in run.disks] if run.kind is RestoreKind.INSTANT else []

    def heartbeat(self, run: RestoreRun) -> Heartbeat:
        """Ask the guest agent, and count what the guest has read. Raises: NotYet: the daemon is away."""
        domain = self._lookup(run)
        if domain is None:
            return Heartbeat()
        with attempt(f"VM {run.domain}: looking for a sign of life"):
            read_bytes = sum(domain.blockStats(disk.target)[1] for disk in run.disks)
        agent = read_live(domain).guest_agent and _pings(domain)
        return Heartbeat(agent=agent, read_bytes=read_bytes)

    def perform(self, run: RestoreRun, step: RestoreDomainStep) -> None:
        match step:
            case Define():
                self._define(run)
            case StartDomain():
                self._start(run)
            case StartPull(target):
                self._pull(run, target)
            case FlushDisks():
                self._flush(run)
            case ResumeDomain():
                self._resume(run)
            case RemoveDomain():
                self._remove(run)

    def _lookup(self, run: RestoreRun) -> libvirt.virDomain | None:
        with attempt(f"Looking for VM {run.domain}"):
            try:
                return self._connections.get().lookupByUUIDString(run.domain_uuid)
            except libvirt.libvirtError as error:
                if is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    return None
                raise

    def _define(self, run: RestoreRun) -> None:
        """libvirt refuses a name that another UUID has: nobody's VM is redefined."""
        xml = self._definition(run)
        with attempt(f"VM {run.domain}: defining it", Reason.RESTORE_FAILED):
            self._connections.get().defineXML(xml)

    def _definition(self, run: RestoreRun) -> str:
        new = run.spec.target.new_domain or run.spec.target.instant
        keep = new is not None and new.mac_addresses is MACAddresses.KEEP
        return restored_xml(self._set_xml(run), _new_vm(run, f"{run.images_path}/{run.directory}", keep=keep))

    def _start(self, run: RestoreRun) -> None:
        what = f"VM {run.domain}: starting it"
        if run.kind in LIVE_KINDS:
            xml = self._isolated(run) if run.kind is RestoreKind.PROOF else self._definition(run)
            with attempt(what, Reason.RESTORE_FAILED):
                self._connections.get().createXML(xml, 0)
            return
        domain = self._lookup(run)
        if domain is None:
            raise Failed(Reason.VM_NOT_FOUND, f"{what}: it is not defined any more")
        with attempt(what, Reason.RESTORE_FAILED):
            if not domain.isActive():
                domain.create()

    def _isolated(self, run: RestoreRun) -> str:
        proof = run.spec.target.proof
        assert proof is not None, "only proofs boot an isolated copy"
        directory = f"{run.images_path}/{run.partial_path}"
        with attempt("Asking for the daemon's capabilities"):
            capabilities = parse(self._connections.get().getCapabilities())
        kvm = any(domain.get("type") == "kvm" for domain in capabilities.iterfind("guest/arch/domain"))
        isolation = Isolation(f"{directory}/{SERIAL_FILE}", parse_bytes(proof.max_memory), tcg=not kvm)
        return restored_xml(self._set_xml(run), _new_vm(run, directory, keep=False), isolation)

    def _pull(self, run: RestoreRun, target: str) -> None:
        what = f"VM {run.domain}, disk {target}: bringing its data from the set"
        domain = self._lookup(run)
        if domain is None:
            raise Failed(Reason.VM_NOT_FOUND, f"{what}: there is no such VM any more")
        disk = next((disk for disk in read_live(domain).disks if disk.target == target), None)
        if disk is None or disk.source != run.disk(target).file:
            where = disk.source if disk else "nothing"
            raise Failed(Reason.RESTORE_FAILED, f"{what}: not done, the disk is on {where} now", heals=True)
        with attempt(what, Reason.RESTORE_FAILED):
            limit = run.spec.limit_bytes_per_second
            domain.blockPull(target, limit, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)

    def _flush(self, run: RestoreRun) -> None:
        """do_vm_stop() of QEMU flushes all images (softmmu/cpus.c); the guest stands still for some milliseconds."""
        with attempt(f"VM {run.domain}: flushing its disks", Reason.RESTORE_FAILED):
            domain = self._connections.get().lookupByUUIDString(run.domain_uuid)
            domain.suspend()
            domain.resume()

    def _resume(self, run: RestoreRun) -> None:
        with attempt(f"VM {run.domain}: resuming it", Reason.RESTORE_FAILED):
            self._connections.get().lookupByUUIDString(run.domain_uuid).resume()

    def _remove(self, run: RestoreRun) -> None:
        domain = self._lookup(run)
        if domain is None:
            return
        with attempt(f"VM {run.domain}: removing it", Reason.RESTORE_FAILED):
            if domain.isActive():
                domain.destroy()
        domain = self._lookup(run)  # a transient one is gone now
        if domain is not None:
            with attempt(f"VM {run.domain}: undefining it", Reason.RESTORE_FAILED):
                domain.undefineFlags(UNDEFINE_FLAGS)


def _new_vm(run: RestoreRun, directory: str, *, keep: bool) -> NewVM:
    nvram = f"{directory}/{NVRAM_FILE}"
    return NewVM(
        name=run.domain,
        uuid=run.domain_uuid,
        files={disk.target: (disk.file, disk.format) for disk in run.disks},
        nvram=nvram if os.path.exists(nvram) else "",
        keep_mac_addresses=keep,
    )


def _pings(domain: libvirt.virDomain) -> bool:
    try:
        answer = libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-ping"}', PING_SECONDS, 0)
        return "return" in json.loads(answer)
    except (libvirt.libvirtError, ValueError):
        return False
