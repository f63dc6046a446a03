"""One VM of the fake hypervisor: its QEMU, chains, jobs and guest agent. Facts from libvirt 9.0 with QEMU 7.2."""

import itertools
import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes.disks import FakeDisk, FakeImage, FakePush, Files
from fakes.guest import Clock, FakeGuest
from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.core.facts import BackupJob, BlockJob, CompletedJob, DiskFacts, DomainFacts, Image
from vmbackup.errors import Failed, NotYet, Refused

EMPTY_OVERLAY_BYTES = 196_608
_PIDS = itertools.count(1000)


@dataclass
class FakeDomain:
    """A VM. `looks` is how many observations a push job or a commit takes; 0 holds them until `advance`.

    `lag_looks`: observations for which QEMU keeps a target open after the push job is over.
    """

    name: str
    disks: list[FakeDisk] = field(default_factory=lambda: [FakeDisk("vda", "/images/vda.qcow2")])
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))
    persistent: bool = True
    guest: FakeGuest = field(default_factory=FakeGuest)
    looks: int = 2
    lag_looks: int = 0
    paused: bool = False
    paused_by_io_error: bool = False
    snapshots: tuple[str, ...] = ()
    foreign_job: BackupJob | None = None
    push: FakePush | None = None
    completed: CompletedJob | None = None
    gone: bool = False
    pid: int = 0

    def plug_in(self, files: Files, images: dict[str, FakeImage], now: Clock, away: Callable[[], bool]) -> None:
        """Join a hypervisor: its files, its images, its time."""
        self._files, self._images, self._away, self.guest.now = files, images, away, now
        self._ended: FakePush | None = None  # a push whose end the daemon has not seen yet
        self._closing: dict[str, int] = {}
        for disk in self.disks:
            layers = [disk.source, *disk.backing] if disk.source else []
            for position, path in enumerate(layers):
                below = layers[position + 1] if position + 1 < len(layers) else None
                images.setdefault(path, FakeImage(disk.format if position == 0 else "qcow2", disk.kind, below))
                files.setdefault(path, disk.allocated_bytes)

    # -- fate ---------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.pid != 0

    def restart_guest(self) -> None:
        """Start a QEMU from the persistent definition: a new instance."""
        assert not self.alive, "the guest runs already"
        self.pid, self.paused, self.paused_by_io_error, self.gone = next(_PIDS), False, False, False
        for disk in self.disks:
            disk.source = disk.inactive_source

    def kill_qemu(self) -> None:
        """QEMU dies: targets of a push are deleted by the daemon, block jobs are gone, a transient domain too."""
        if self.push and not self._away():
            self._delete_targets(self.push)
            self.completed = CompletedJob("backup", success=False, error="")
        self.pid, self.push, self._ended, self._closing, self.foreign_job = 0, None, None, {}, None
        self.guest.wake()
        for disk in self.disks:
            disk.job = None
        self.gone = not self.persistent

    shut_down_guest = kill_qemu  # QEMU exits, and its jobs with it, whoever asked

    def advance(self, bytes_: int | None = None) -> None:
        """Let the push job copy so many bytes, all of the rest by default; commits become ready."""
        if self.push:
            self.push.bytes_done = min(self.push.bytes_total, self.push.bytes_done + (bytes_ or self.push.bytes_total))
            if self.push.bytes_done == self.push.bytes_total:
                self._end_push(self.push)
        for disk in self.disks:
            if disk.job and disk.job.kind == "active-commit":
                disk.job = BlockJob(disk.job.kind, disk.virtual_bytes, disk.virtual_bytes, True, disk.job.mirror_path)

    def fail_push(self, error: str = "No space left on device") -> None:
        """A target fails: the whole job ends, its targets are deleted, the guest runs on."""
        assert self.push, "no push job to fail"
        self.push.error = error
        self._end_push(self.push)

    def fail_commit(self, target: str) -> None:
        """The commit ends with an error: no job, still on the overlay, nothing lost."""
        self.disk(target).job = None

    def become_ghost(self) -> None:
        """The daemon died while the push job was ending: it shows a job of 0 bytes for ever, until that is aborted.

        Seen on libvirt 9.0 and 11.3: no disk has a block job any more, and nobody is left to end the whole.
        """
        assert self.push, "no push job to haunt the VM"
        self.push.bytes_done = self.push.bytes_total = 0
        self.push.ghost = True

    def start_foreign_job(self, operation: str = "outgoing migration", targets: dict[str, str] | None = None) -> None:
        self.foreign_job = BackupJob(operation, 0, 0, targets or {})

    def look(self) -> None:
        """One observation passed."""
        self._closing = {path: left - 1 for path, left in self._closing.items() if left > 1}
        if not self.looks or not self.alive:
            return
        if self.push and not self.push.ghost:
            self.advance(-(-self.push.bytes_total // self.looks))
        for disk in self.disks:
            if disk.job and disk.job.kind == "active-commit" and not disk.job.ready:
                total = disk.job.bytes_total
                done = min(total, disk.job.bytes_done + -(-total // self.looks))
                # bytes_done can equal bytes_total one look before READY: never judge by it
                ready = disk.job.bytes_done == total
                disk.job = BlockJob(disk.job.kind, done, total, ready, disk.job.mirror_path)

    def catch_up(self) -> None:
        """The daemon is back: a job that ended meanwhile shows as completed, without details."""
        if self._ended:
            success = not (self._ended.error or self._ended.ghost)
            self.completed = CompletedJob("backup", success, self._ended.error)
            self._ended = None

    # -- what libvirt says --------------------------------------------------------------------------------------

    def disk(self, target: str) -> FakeDisk:
        for disk in self.disks:
            if disk.target == target:
                return disk
        raise Failed(Reason.DISK_NOT_FOUND, f"{self.name}: invalid path {target} not assigned to domain")

    @property
    def open_paths(self) -> list[str]:
        if not self.alive:
            return []
        writable = [disk.source for disk in self.disks if disk.source and not disk.readonly]
        bases = [disk.job.mirror_path for disk in self.disks if disk.job and disk.job.kind == "active-commit"]
        return [*writable, *bases, *(self.push.files.values() if self.push else ()), *self._closing]

    def facts(self) -> DomainFacts:
        if self.gone:
            return DomainFacts(self.name, self.uuid, "absent")
        return DomainFacts(
            name=self.name,
            uuid=self.uuid,
            state="off" if not self.alive else "paused" if self.paused or self.paused_by_io_error else "running",
            paused_by_io_error=self.paused_by_io_error and self.alive,
            persistent=self.persistent,
            instance=f"boot.{self.pid}.{self.pid}" if self.alive else "",
            guest_agent=self.guest.agent and self.alive,
            disks=tuple(self._disk_facts(disk) for disk in self.disks),
            job=self._job(),
            completed=None if self._job() else self.completed,
            snapshots=self.snapshots,
        )

    def _job(self) -> BackupJob | None:
        if self.push:
            return BackupJob("backup", self.push.bytes_done, self.push.bytes_total, dict(self.push.targets))
        return self.foreign_job

    def _disk_facts(self, disk: FakeDisk) -> DiskFacts:
        source = disk.source if self.alive else disk.inactive_source
        image = self._images.get(source)
        job = disk.job
        if self.push and not self.push.ghost and disk.target in self.push.targets:
            job = BlockJob("backup", self.push.bytes_done, self.push.bytes_total)
        return DiskFacts(
            target=disk.target,
            device=disk.device,
            kind=(image.kind if image else disk.kind) if source else "",
            source=source,
            format=image.format if image else disk.format,
            readonly=disk.readonly,
            shareable=disk.shareable,
            transient=disk.transient,
            backing=self._chain(source) if self.alive else self._defined_chain(source),
            inactive_source=disk.inactive_source if self.persistent else None,
            virtual_bytes=disk.virtual_bytes if source else 0,
            allocated_bytes=disk.allocated_bytes if source else 0,
            job=job,
        )

    def _chain(self, source: str) -> tuple[Image, ...]:
        layers = []
        path = self._images[source].backing if source in self._images else None
        while path is not None:
            layers.append(Image(path, self._images[path].format, self._images[path].kind))
            path = self._images[path].backing
        return tuple(layers)

    def _defined_chain(self, source: str) -> tuple[Image, ...]:
        """A definition names the layer below an overlay that libvirt made, and no other."""
        return self._chain(source)[:1] if names.overlay_uid(source.rpartition("/")[2]) else ()

    # -- push ---------------------------------------------------------------------------------------------------

    def begin_push(self, targets: dict[str, str], *, ours: str, made: dict[str, str] | None = None) -> None:
        """`made`: the images that are there already, by their paths outside of the pod in which the domain runs."""
        if self.push and all(path.startswith(ours) for path in self.push.targets.values()):
            raise Refused(Reason.BACKUP_JOB_FAILED, f"{self.name}: our push job runs already")
        if self._job():
            raise NotYet(Reason.FOREIGN_JOB, f"{self.name}: another job runs: {self._job()}")
        for target, path in targets.items():
            disk = self.disk(target)
            if disk.job:
                raise Failed(Reason.BACKUP_JOB_FAILED, f"{self.name}: disk {target} has a blockjob assigned")
            if not disk.source or disk.transient:
                raise Failed(Reason.BACKUP_JOB_FAILED, f"{self.name}: disk {target} cannot be backed up")
            if made is None and path in self._files:
                raise Failed(Reason.BACKUP_JOB_FAILED, f"{self.name}: target {path} exists already")
            if made is not None and made[target] not in self._files:
                raise Failed(Reason.BACKUP_JOB_FAILED, f"{self.name}: {path}: No such file or directory", heals=True)
        files = targets if made is None else made
        self._files.update(dict.fromkeys(files.values(), EMPTY_OVERLAY_BYTES))
        total = sum(self.disk(target).virtual_bytes for target in targets)
        self.push = FakePush(targets, total, files=files, reused=made is not None)

    def abort_push(self, *, under: str) -> None:
        """A job that is not ours is left alone; none is as good as an aborted one."""
        if self.push and all(path.startswith(under) for path in self.push.targets.values()):
            self.push.error = "" if self.push.ghost else "Operation canceled"
            self._end_push(self.push)

    def _end_push(self, push: FakePush) -> None:
        self.push = None
        if push.error or push.ghost:
            self._delete_targets(push)
        else:
            self._files.update({path: self.disk(target).allocated_bytes for target, path in push.files.items()})
            self._images.update({path: FakeImage("qcow2") for path in push.files.values()})
            self._closing = dict.fromkeys(push.files.values(), self.lag_looks) if self.lag_looks else {}
        self._ended = push
        if not self._away():
            self.catch_up()

    def _delete_targets(self, push: FakePush) -> None:
        for path in () if push.reused else push.files.values():
            self._files.pop(path, None)

    # -- snapshot, commit, pivot --------------------------------------------------------------------------------

    def take_snapshot(self, overlays: dict[str, str]) -> None:
        """All disks or none. The persistent definition follows a disk where it has the same source."""
        if self._job():
            raise NotYet(Reason.FOREIGN_JOB, f"{self.name}: another job runs: {self._job()}")
        if any(self.disk(target).shareable for target in overlays):
            raise Failed(Reason.SNAPSHOT_FAILED, f"{self.name}: shareable disk (libvirt error 67)")
        for target, path in overlays.items():
            disk = self.disk(target)
            if disk.job or not disk.source or disk.transient:
                raise Failed(Reason.SNAPSHOT_FAILED, f"{self.name}: disk {target} cannot be snapshotted")
            if self._files.get(path):
                raise Failed(Reason.SNAPSHOT_FAILED, f"{self.name}: overlay {path} already exists (libvirt error 67)")
        for target, path in overlays.items():
            disk = self.disk(target)
            self._images[path] = FakeImage("qcow2", "file", disk.source)
            self._files[path] = EMPTY_OVERLAY_BYTES
            if disk.inactive_source == disk.source:
                disk.inactive_source = path
            disk.source = path

    def start_commit(self, target: str, base: str, *, uid: str) -> None:
        disk = self._on_overlay(target, uid)
        chain = self._chain(disk.source)
        if not chain or chain[0].path != base:
            raise Failed(Reason.COMMIT_FAILED, f"{self.name}: {base} is not right below {disk.source} on {target}")
        if disk.job:
            raise Failed(Reason.COMMIT_FAILED, f"{self.name}: disk {target} has a block job (libvirt error 83)")
        self._images[base].commits += 1
        disk.job = BlockJob("active-commit", 0, disk.virtual_bytes, False, base)

    def pivot(self, target: str, *, uid: str) -> None:
        disk = self._on_overlay(target, uid)
        if disk.job is None or disk.job.kind != "active-commit":
            raise Failed(Reason.COMMIT_FAILED, f"{self.name}: disk {target} has no commit to end")
        if not disk.job.ready:
            raise Failed(
                Reason.COMMIT_FAILED, f"{self.name}: disk {target} is not ready (libvirt error 83)", heals=True
            )
        if disk.inactive_source == disk.source:
            disk.inactive_source = disk.job.mirror_path
        disk.source, disk.job = disk.job.mirror_path, None

    def _on_overlay(self, target: str, uid: str) -> FakeDisk:
        disk = self.disk(target)
        if names.overlay_uid(disk.source.rpartition("/")[2]) != uid:
            raise Failed(Reason.COMMIT_FAILED, f"{self.name}: {disk.source} on {target} is no overlay of this backup")
        return disk
