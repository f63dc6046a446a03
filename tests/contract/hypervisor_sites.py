"""Places where the hypervisor contract is tried: in memory, and on real libvirt daemons of three releases."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import libvirt

from fakes.hypervisor import FakeDisk, FakeDomain, FakeHypervisor
from testbed.guests import Disk, Options, domain_xml, start_guest, write_pattern
from testbed.hypervisor import Libvirtd as Daemon
from testbed.images import disk_image, overlay_image, qemu_img
from vmbackup.api import names
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method, VMBackupSpec
from vmbackup.core.facts import BackupJob, BlockJob, DomainFacts
from vmbackup.core.ports import Hypervisor
from vmbackup.core.steps import BeginPush, StartCommit
from vmbackup.errors import NotYet
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.units import MIB

DEADLINE_SECONDS = 60
SLOW_BYTES_PER_SECOND = 65536
HELD_DATA_BYTES = 384 * MIB  # more than QEMU copies before a limit bites
GUEST_WRITES_BYTES = 60 * MIB
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Wish:
    """One disk of a VM to be made. `golden`: it lies on an image that other VMs share. `large`: can be held."""

    target: str = "vda"
    format: str = "qcow2"
    golden: bool = False
    shareable: bool = False
    empty_cdrom: bool = False
    large: bool = False


class Site(Protocol):
    """Where VMs are made, and fate is played. Paths are absolute."""

    hypervisor: Hypervisor
    can_push: bool

    def new_vm(self, *wishes: Wish, persistent: bool = True) -> Run:
        """Make and start a VM and return a run for it, with an empty directory to write to."""

    def begin_held(self, run: Run, step: BeginPush | StartCommit | None = None) -> None:
        """Do a step (by default begin the run's push) whose job does not end by itself before `let_go`."""

    def let_go(self, run: Run) -> None: ...
    def guest_writes(self, run: Run, target: str) -> None: ...
    def kill_qemu(self, run: Run) -> None: ...
    def start_guest(self, run: Run) -> None: ...
    def pause_guest(self, run: Run) -> None: ...
    def kill_daemon(self) -> None: ...
    def start_daemon(self) -> None: ...
    def end_push_unseen(self, run: Run) -> None:
        """Let the running push job end while the daemon is dead."""

    def begin_foreign_push(self, run: Run) -> None: ...
    def begin_foreign_copy(self, run: Run, target: str) -> None: ...
    def exists(self, path: str) -> bool: ...
    def put_file(self, path: str) -> None: ...
    def fingerprint(self, path: str) -> object:
        """Return something that changes when the file is written."""

    def same_content(self, source: str, copy: str) -> bool: ...


def targets_of(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((disk.target, f"{run.location_path}/{run.partial_path}/{disk.image}") for disk in run.disks)


def overlays_of(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((disk.target, disk.overlay) for disk in run.disks)


def wait_until(site: Site, run: Run, condition: Callable[[DomainFacts], bool]) -> DomainFacts:
    """Look until the condition holds. Raises AssertionError after a minute."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    seen: object = None
    while True:
        try:
            seen = facts = site.hypervisor.observe(run)
            if condition(facts):
                return facts
        except NotYet as reason:  # a QEMU that is just ending cannot be asked
            seen = reason
        assert time.monotonic() < deadline, f"not reached: {seen}"
        time.sleep(0.02)


def make_run(domain: str, uuid: str, location: str, disks: tuple[RunDisk, ...], number: int) -> Run:
    """Return a run as the planner would have made it, as far as a hypervisor is concerned."""
    uid = f"00000000-0000-4000-8000-{number:012d}"
    placed = tuple(
        disk.model_copy(update={"overlay": f"{os.path.dirname(disk.source)}/{names.overlay_name(uid, 1, disk.target)}"})
        for disk in disks
    )
    return Run(
        uid=uid,
        namespace="team-a",
        name=f"backup-{number}",
        domain=domain,
        domain_uuid=uuid,
        vm=domain.partition("_")[2],
        instance="",
        spec=VMBackupSpec.model_validate({"source": {"name": "vm"}, "location": "here"}),
        location_path=location,
        overlay_directory=location,
        set_path=f"team-a/vm/set-{number}",
        method=Method.AUTO,
        method_reason="",
        disks=placed,
        started_at=0.0,
        attempt_started_at=0.0,
    )


def _run_disk(wish: Wish, source: str, golden: str) -> RunDisk:
    return RunDisk(
        target=wish.target,
        source=source,
        source_kind="file",
        source_format=wish.format,
        backing=(golden,) if wish.golden else (),
        inactive_source=source,
        virtual_bytes=64 * MIB,
        image=f"{wish.target}.qcow2",
        image_format="qcow2",
    )


class Qmp:
    """A monitor of QEMU's that is not libvirt's: it works while the daemon is dead, and before libvirt looks."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                return answer.get("return", [])

    def limit_jobs(self, bytes_per_second: int) -> int:
        jobs = self.ask("query-block-jobs")
        for job in jobs:
            self.ask("block-job-set-speed", device=job["device"], speed=bytes_per_second)
        return len(jobs)

    @contextlib.contextmanager
    def slowing(self) -> Iterator[None]:
        """Slow down every job that begins meanwhile, from its first moment on."""
        begun = threading.Event()

        def slow() -> None:
            while not begun.is_set():
                self.limit_jobs(SLOW_BYTES_PER_SECOND)
                time.sleep(0.001)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            yield
        finally:
            begun.set()
            thread.join()
            self.limit_jobs(SLOW_BYTES_PER_SECOND)

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()


def with_monitor(xml: str, path: Path) -> str:
    """Add a second monitor to a domain."""
    name = "http://libvirt.org/schemas/domain/qemu/1.0"
    root = ElementTree.fromstring(xml)  # noqa: S314 - our own XML
    command_line = ElementTree.SubElement(root, f"{{{name}}}commandline")
    for value in ("-qmp", f"unix:{path},server=on,wait=off"):
        ElementTree.SubElement(command_line, f"{{{name}}}arg", value=value)
    return ElementTree.tostring(root, encoding="unicode")


class FakeSite:
    """In memory."""

    can_push = True

    def __init__(self) -> None:
        self.fake = FakeHypervisor()
        self.hypervisor: Hypervisor = self.fake

    def new_vm(self, *wishes: Wish, persistent: bool = True) -> Run:
        number = next(_numbers)
        golden = "/images/golden.qcow2"
        disks = {wish.target: f"/images/vm-{number}-{wish.target}.{wish.format}" for wish in wishes}
        domain = self.fake.add(
            FakeDomain(
                f"team-a_vm-{number}",
                [self._disk(wish, disks[wish.target], golden) for wish in wishes],
                persistent=persistent,
            )
        )
        domain.guest.agent = False
        run_disks = tuple(_run_disk(wish, disks[wish.target], golden) for wish in wishes if not wish.empty_cdrom)
        return make_run(domain.name, domain.uuid, "/backups", run_disks, number)

    @staticmethod
    def _disk(wish: Wish, source: str, golden: str) -> FakeDisk:
        if wish.empty_cdrom:
            return FakeDisk(wish.target, device="cdrom", readonly=True)
        backing = (golden,) if wish.golden else ()
        return FakeDisk(wish.target, source, wish.format, backing, shareable=wish.shareable)

    def begin_held(self, run: Run, step: BeginPush | StartCommit | None = None) -> None:
        self._vm(run).looks = 0
        self.hypervisor.perform(run, step or BeginPush(targets_of(run)))

    def let_go(self, run: Run) -> None:
        self._vm(run).looks = 1

    def guest_writes(self, run: Run, target: str) -> None:
        path = self._vm(run).disk(target).source
        self.fake.files[path] += GUEST_WRITES_BYTES

    def kill_qemu(self, run: Run) -> None:
        self._vm(run).kill_qemu()

    def start_guest(self, run: Run) -> None:
        self._vm(run).restart_guest()

    def pause_guest(self, run: Run) -> None:
        self._vm(run).paused = True

    def kill_daemon(self) -> None:
        self.fake.kill_daemon()

    def start_daemon(self) -> None:
        self.fake.start_daemon()

    def end_push_unseen(self, run: Run) -> None:
        self._vm(run).advance()

    def begin_foreign_push(self, run: Run) -> None:
        self._vm(run).foreign_job = BackupJob("backup", 1, 2, {"vda": "/elsewhere/vda.qcow2"})

    def begin_foreign_copy(self, run: Run, target: str) -> None:
        self._vm(run).disk(target).job = BlockJob("copy", 1, 2, mirror_path="/elsewhere/copy.qcow2")

    def exists(self, path: str) -> bool:
        return path in self.fake.files

    def put_file(self, path: str) -> None:
        self.fake.files[path] = 1

    def fingerprint(self, path: str) -> object:
        return self.fake.files[path], self.fake.images[path].commits if path in self.fake.images else 0

    def same_content(self, source: str, copy: str) -> bool:
        return source in self.fake.files and copy in self.fake.files

    def _vm(self, run: Run) -> FakeDomain:
        return self.fake.domains[run.domain_uuid]


class RealSite:
    """A real daemon with real QEMUs, without KVM."""

    def __init__(self, release: str) -> None:
        # QEMU of the machine's own packages runs as another user, who may not enter pytest's directories.
        self._directory = tempfile.TemporaryDirectory(prefix="vmb-", dir="/var/tmp")
        self.daemon = daemon = Daemon(release, directory=Path(self._directory.name))
        daemon.start()
        self.can_push = release != "7.0"
        self.hypervisor: Hypervisor = Libvirtd(daemon.uri)
        self.location, self.work = daemon.images / "backups", daemon.images / "monitors"
        for directory in (self.location, self.work):
            directory.mkdir()
            directory.chmod(0o777)
        self.golden = disk_image(daemon.images / "golden.qcow2", "qcow2", 64 * MIB, 4 * MIB)
        self._uuids: list[str] = []

    def new_vm(self, *wishes: Wish, persistent: bool = True) -> Run:
        number = next(_numbers)
        paths = {wish.target: self._image(wish, number) for wish in wishes if not wish.empty_cdrom}
        disks = [self._disk(wish, paths.get(wish.target)) for wish in wishes]
        uuid = self._start(f"team-a_vm-{number}", disks, Options(memory_mib=32, agent=True), persistent=persistent)
        run_disks = tuple(
            _run_disk(wish, str(paths[wish.target]), str(self.golden)) for wish in wishes if not wish.empty_cdrom
        )
        return self._placed(make_run(f"team-a_vm-{number}", uuid, str(self.location), run_disks, number))

    def adopt(self, name: str, disks: list[Disk], source: str, options: Options | None = None) -> Run:
        """Start a VM of the test's own making; its first disk has this source and is called vda."""
        uuid = self._start(name, disks, options or Options(memory_mib=32))
        run_disks = (_run_disk(Wish(format=disks[0].format), source, ""),)
        return self._placed(make_run(name, uuid, str(self.location), run_disks, next(_numbers)))

    def _start(self, name: str, disks: list[Disk], options: Options, *, persistent: bool = True) -> str:
        xml = with_monitor(domain_xml(name, disks, options), self._monitor(name))
        uuid = start_guest(self.daemon.uri, xml, define=persistent)
        self._uuids.append(uuid)
        return uuid

    def _placed(self, run: Run) -> Run:
        partial = self.location / run.partial_path
        partial.mkdir(parents=True)
        partial.chmod(0o777)
        return run

    def _image(self, wish: Wish, number: int) -> Path:
        path = self.daemon.images / f"vm-{number}-{wish.target}.{wish.format}"
        if wish.golden:
            return overlay_image(path, self.golden)
        size_bytes = HELD_DATA_BYTES if wish.large else 64 * MIB
        return disk_image(path, wish.format, size_bytes, size_bytes if wish.large else 8 * MIB)

    @staticmethod
    def _disk(wish: Wish, path: Path | None) -> Disk:
        if wish.empty_cdrom:
            return Disk(None, wish.target, "raw", device="cdrom")
        return Disk(path, wish.target, wish.format, shareable=wish.shareable)

    def begin_held(self, run: Run, step: BeginPush | StartCommit | None = None) -> None:
        with Qmp(self._monitor(run.domain)) as qemu, qemu.slowing():
            self.hypervisor.perform(run, step or BeginPush(targets_of(run)))
        with Qmp(self._monitor(run.domain)) as qemu:
            jobs = qemu.ask("query-block-jobs")
        assert any(job["offset"] < job["len"] for job in jobs), f"over before it was slowed: {jobs}"

    def let_go(self, run: Run) -> None:
        with Qmp(self._monitor(run.domain)) as qemu:
            qemu.limit_jobs(0)

    def qemu(self, run: Run, command: str) -> Any:
        """Ask the VM's QEMU past libvirt."""
        with Qmp(self._monitor(run.domain)) as qemu:
            return qemu.ask(command)

    def signal_daemon(self, name: str) -> None:
        """Send libvirtd a signal: STOP, CONT."""
        self.daemon.run("sh", "-c", f"kill -{name} $(cat /run/libvirt/libvirtd.pid)")

    def _monitor(self, domain: str) -> Path:
        return self.work / f"{domain}.qmp"

    @contextlib.contextmanager
    def domain(self, run: Run) -> Iterator[libvirt.virDomain]:
        """Yield the VM on a connection of the test's own."""
        connection = libvirt.open(self.daemon.uri)
        try:
            yield connection.lookupByUUIDString(run.domain_uuid)
        finally:
            connection.close()

    def guest_writes(self, run: Run, target: str) -> None:
        write_pattern(self.daemon.uri, run.domain, target, 0, GUEST_WRITES_BYTES)

    def kill_qemu(self, run: Run) -> None:
        pid = self.daemon.qemu_pid(run.domain_uuid)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(self, run, lambda facts: not facts.alive)

    def start_guest(self, run: Run) -> None:
        with self.domain(run) as domain:
            domain.create()

    def pause_guest(self, run: Run) -> None:
        with self.domain(run) as domain:
            domain.suspend()

    def kill_daemon(self) -> None:
        self.daemon.kill_daemon()

    def start_daemon(self) -> None:
        self.daemon.start_daemon()

    def end_push_unseen(self, run: Run) -> None:
        """Wait until the target holds all the data; QEMU needs nobody for it."""
        wanted = sum(HELD_DATA_BYTES for _ in run.disks)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while sum(os.stat(path).st_blocks * 512 for _, path in targets_of(run)) < wanted:
            assert time.monotonic() < deadline, "the job does not end"
            time.sleep(0.05)

    def begin_foreign_push(self, run: Run) -> None:
        target = self.daemon.images / f"foreign-{run.name}.qcow2"
        xml = (
            f"<domainbackup><disks><disk name='vda' type='file'><target file='{target}'/></disk></disks></domainbackup>"
        )
        with Qmp(self._monitor(run.domain)) as qemu, self.domain(run) as domain, qemu.slowing():
            domain.backupBegin(xml, None, 0)

    def begin_foreign_copy(self, run: Run, target: str) -> None:
        copy = self.daemon.images / f"copy-{run.name}.qcow2"
        with self.domain(run) as domain:
            xml = f"<disk type='file'><driver type='qcow2'/><source file='{copy}'/></disk>"
            domain.blockCopy(target, xml, None, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def put_file(self, path: str) -> None:
        Path(path).write_text("not ours")

    def fingerprint(self, path: str) -> object:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest(), Path(path).stat().st_mtime_ns

    def same_content(self, source: str, copy: str) -> bool:
        return "identical" in qemu_img("compare", "-U", source, copy)

    def close(self) -> None:
        self.daemon.stop()
        self._directory.cleanup()

    def tidy(self) -> None:
        """End the VMs of a test and remove their files."""
        connection = libvirt.open(self.daemon.uri)
        for uuid in self._uuids:
            with contextlib.suppress(libvirt.libvirtError):
                domain = connection.lookupByUUIDString(uuid)
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefine()
        connection.close()
        self._uuids.clear()
        shutil.rmtree(self.location / "team-a", ignore_errors=True)
        for path in (*self.daemon.images.iterdir(), *self.work.iterdir()):
            if path != self.golden and path.is_file():
                path.unlink()
