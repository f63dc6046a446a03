"""From a libvirt domain to facts. Changes nothing, and takes no job lock but for queries."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import libvirt

from vmbackup.api.conditions import Reason
from vmbackup.core.facts import BackupJob, BlockJob, CompletedJob, DiskFacts, DomainFacts
from vmbackup.errors import NotYet
from vmbackup.hypervisor.domain_xml import DomainXML, read_domain, read_push_targets
from vmbackup.hypervisor.failures import attempt, is_code, is_not_running
from vmbackup.hypervisor.instance import Instances

OPERATIONS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "incoming migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "outgoing migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "snapshot revert",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE: "snapshot delete",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
}
BLOCK_JOBS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY: "copy",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: "active-commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "backup",
}
PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED)
COMPLETED_AND_KEPT = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED

Statistics = Mapping[str, Any]
State = Literal["running", "paused", "off"]


def observe(domain: libvirt.virDomain, instances: Instances) -> DomainFacts:
    """Return all that libvirt says of a domain.

    Raises:
        NotYet: the daemon is away or the VM is locked by another operation for 30 s.
        Failed: the domain is gone (`VMNotFound`), or its XML is not what libvirt would write.
    """
    with attempt(f"Looking at VM {domain.name()}"):
        try:
            return _look(domain, instances)
        except libvirt.libvirtError as error:
            if not is_not_running(error):
                raise
            return _look(domain, instances)  # it stopped between two questions


def _look(domain: libvirt.virDomain, instances: Instances) -> DomainFacts:
    alive = bool(domain.isActive())
    # First the question that waits for the job lock. A daemon that was just restarted holds it until it has found out
    # what its QEMUs do; until then it answers every other question as if no job had ever been (tried on 9.0).
    sizes = _sizes(domain, alive)
    state, why = domain.state()
    seen = read_domain(domain.XMLDesc(0))
    persistent = bool(domain.isPersistent())
    inactive = _inactive_sources(domain) if persistent else {}
    disks = tuple(_disk(domain, disk, sizes, inactive.get(disk.target), alive) for disk in seen.disks)
    job = _running_job(domain) if alive else None
    return DomainFacts(
        name=domain.name(),
        uuid=domain.UUIDString(),
        state=_state(alive, state),
        paused_by_io_error=alive and (state, why) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
        persistent=persistent,
        instance=_instance(domain, instances) if alive else _no_instance(domain, instances),
        guest_agent=alive and seen.guest_agent,
        disks=disks,
        job=job,
        completed=_completed_job(domain) if job is None else None,
        snapshots=tuple(domain.snapshotListNames(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_EXTERNAL)),
    )


def observe_lightly(domain: libvirt.virDomain, instances: Instances, targets: Iterable[str]) -> DomainFacts:
    """Return what libvirt says without asking QEMU for sizes: state, sources, block jobs of the named disks.

    The question for sizes makes QEMU 7.2 look at the file names of all its nodes (query-named-block-nodes), and it
    crashes when a pull ends at that moment: bdrv_refresh_filename() meets the pull's filter without a child. Seen in
    one of six pulls.
    Raises: as `observe`.
    """
    with attempt(f"Looking at VM {domain.name()}"):
        alive = bool(domain.isActive())
        # First, as above: this question waits for the job lock, too.
        jobs = {target: domain.blockJobInfo(target) for target in targets} if alive else {}
        state, _ = domain.state()
        disks = tuple(_with_job(disk, jobs.get(disk.target)) for disk in read_domain(domain.XMLDesc(0)).disks)
        if not alive:
            _no_instance(domain, instances)
        return DomainFacts(
            name=domain.name(),
            uuid=domain.UUIDString(),
            state=_state(alive, state),
            persistent=bool(domain.isPersistent()),
            disks=disks,
        )


def read_live(domain: libvirt.virDomain) -> DomainXML:
    """Return what the live XML of a domain says, without sizes and jobs. Raises: as `observe`."""
    with attempt(f"VM {domain.name()}: reading its XML"):
        return read_domain(domain.XMLDesc(0))


def running_backup(domain: libvirt.virDomain) -> dict[str, str] | None:
    """Return the files that the running push backup writes, by disk; None when no backup runs."""
    try:
        return read_push_targets(domain.backupGetXMLDesc())
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        raise


def running_operation(domain: libvirt.virDomain) -> str:
    """Return the domain's running job in a word; empty when there is none."""
    return _operation(_running_statistics(domain))


def _state(alive: bool, state: int) -> State:
    if not alive:
        return "off"
    return "paused" if state in PAUSED else "running"


def _instance(domain: libvirt.virDomain, instances: Instances) -> str:
    found = instances.instance(domain.UUIDString(), domain.ID())
    if not found and domain.isActive():
        raise NotYet(
            Reason.HYPERVISOR_ERROR,
            f"VM {domain.name()} runs, but its QEMU process is not visible: the agent must share the PID namespace of "
            "the host (hostPID).",
        )
    return found


def _no_instance(domain: libvirt.virDomain, instances: Instances) -> str:
    """Raises: NotYet: the VM is not off at all, libvirt has lost its QEMU and knows nothing of its disks.

    libvirt 9.0 does so when it is killed in the middle of a pivot: it has just written `<mirror job=''>` into its
    status file, and cannot read that at its next start. The guest may then run on the base, while the definition still
    names our overlay.
    """
    found = instances.instance(domain.UUIDString(), domain.ID())
    if found and not domain.isActive():
        pid = found.split(".")[1]
        raise NotYet(
            Reason.HYPERVISOR_ERROR,
            f"VM {domain.name()}: libvirt says that it is off, but its QEMU runs as process {pid}: libvirt has lost it "
            "(see 'Failed to load config' in its log). Nothing is done to the VM meanwhile. Do not kill QEMU before "
            "you know which files it has open; then put those into the definition, and start the VM.",
        )
    return ""


def _inactive_sources(domain: libvirt.virDomain) -> dict[str, str]:
    inactive = read_domain(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return {disk.target: disk.source for disk in inactive.disks}


def _disk(
    domain: libvirt.virDomain, disk: DiskFacts, sizes: "Sizes", inactive_source: str | None, alive: bool
) -> DiskFacts:
    if disk.source:
        virtual_bytes, allocated_bytes = sizes.of(disk)
        disk = replace(disk, virtual_bytes=virtual_bytes, allocated_bytes=allocated_bytes)
    job = _block_job(domain, disk) if alive else disk.job
    return replace(disk, inactive_source=inactive_source, job=job)


def _block_job(domain: libvirt.virDomain, disk: DiskFacts) -> BlockJob | None:
    """Return the block job of a disk: its bytes from blockJobInfo, its readiness from `<mirror>`."""
    return _with_job(disk, domain.blockJobInfo(disk.target)).job


def _with_job(disk: DiskFacts, info: Statistics | None) -> DiskFacts:
    if not info:
        return disk
    shown = disk.job or BlockJob(BLOCK_JOBS.get(info["type"], f"type {info['type']}"))
    return replace(disk, job=replace(shown, bytes_done=info["cur"], bytes_total=info["end"]))


def _running_job(domain: libvirt.virDomain) -> BackupJob | None:
    statistics = _running_statistics(domain)
    operation = _operation(statistics)
    if not operation:
        return None
    kind = "disk" if operation == "backup" else "data"
    targets = running_backup(domain) if operation == "backup" else {}
    if targets is None:
        raise NotYet(Reason.FOREIGN_JOB, f"VM {domain.name()}: a backup job has just ended; we look again.")
    return BackupJob(
        operation,
        bytes_done=statistics.get(f"{kind}_processed", 0),
        bytes_total=statistics.get(f"{kind}_total", 0),
        targets=targets,
    )


def _running_statistics(domain: libvirt.virDomain) -> Statistics:
    """Return the statistics of the running job. Raises: NotYet: it is just being started."""
    try:
        statistics: Statistics = domain.jobStats()
    except libvirt.libvirtError as error:
        # Seen on 9.0: while backupBegin is still at work libvirt says "internal error: backup job data missing".
        if not is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR):
            raise
        words = f"VM {domain.name()}: a job that is just starting or ending hides how it stands: {error}"
        raise NotYet(Reason.FOREIGN_JOB, words) from error
    return statistics


def _completed_job(domain: libvirt.virDomain) -> CompletedJob | None:
    try:
        statistics: Statistics = domain.jobStats(COMPLETED_AND_KEPT)
    except libvirt.libvirtError as error:
        if is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
            return None  # a job has begun meanwhile
        raise
    operation = _operation(statistics)
    if not operation:
        return None
    # `success` is there since libvirt 6.0; the type alone would call a cancelled pull backup completed.
    finished = statistics["type"] == libvirt.VIR_DOMAIN_JOB_COMPLETED
    success = finished and bool(statistics.get("success", finished))
    return CompletedJob(operation, success, statistics.get("errmsg", ""))


def _operation(statistics: Statistics) -> str:
    if statistics.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return ""
    number = statistics.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN)
    return OPERATIONS.get(number, f"unknown ({number})")


class Sizes:
    """The block statistics of a domain: one entry per layer of every disk."""

    def __init__(self, statistics: Statistics) -> None:
        self._layers: dict[tuple[str, str], dict[str, int]] = {}
        for number in range(statistics.get("block.count", 0)):
            prefix = f"block.{number}."
            entry = {key.removeprefix(prefix): value for key, value in statistics.items() if key.startswith(prefix)}
            self._layers.setdefault((entry.get("name", ""), entry.get("path", "")), entry)

    def of(self, disk: DiskFacts) -> tuple[int, int]:
        """Return virtual and allocated bytes; the latter over the whole chain, at most the former.

        A block device tells nothing of what is allocated: it counts as full.
        """
        top = self._layers.get((disk.target, disk.source)) or self._first(disk.target)
        virtual_bytes = top.get("capacity", 0)
        paths = {disk.source: disk.kind} | {layer.path: layer.kind for layer in disk.backing}
        layers = [(self._layers.get((disk.target, path), {}), kind) for path, kind in paths.items()]
        allocated = sum(layer.get("physical", 0) if kind == "file" else virtual_bytes for layer, kind in layers)
        return virtual_bytes, min(allocated, virtual_bytes)

    def _first(self, target: str) -> dict[str, int]:
        return next((entry for (name, _), entry in self._layers.items() if name == target), {})

    @property
    def complete(self) -> bool:
        """Tell whether QEMU was asked: libvirt leaves sizes out, without an error, when it could not get the lock."""
        with_medium = [entry for (_, path), entry in self._layers.items() if path]
        return not with_medium or any("capacity" in entry for entry in with_medium)


def _sizes(domain: libvirt.virDomain, alive: bool) -> Sizes:
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING
    found = domain.connect().domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_BLOCK, flags)
    sizes = Sizes(found[0][1] if found else {})
    if alive and not sizes.complete:
        raise NotYet(
            Reason.FOREIGN_JOB,
            f"VM {domain.name()} is being stopped, or held by another operation (`virsh domjobinfo`).",
        )
    return sizes
