"""The contract's places on real libvirt daemons and real QEMUs, without KVM."""

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt

from contract.qmp import Qmp, with_monitor
from contract.site import (
    DEADLINE_SECONDS,
    GUEST_WRITES_BYTES,
    Wish,
    make_run,
    numbers,
    run_disk,
    targets_of,
    wait_until,
)
from fakes.waiting import eventually
from testbed.guests import Disk, Options, domain_xml, start_guest, write_pattern
from testbed.hypervisor import Libvirtd as Daemon
from testbed.images import disk_image, overlay_image, qemu_img
from vmbackup.api.journal import Run
from vmbackup.core.ports import Hypervisor
from vmbackup.core.steps import BeginPush, DrainStatistics, StartCommit
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.units import MIB

HOLD_TRIES = 5
# A boot sector that does nothing but write, by the firmware's extended write (int 13h, AH=43h), 32 KiB after 32 KiB.
WRITER = (
    bytes.fromhex(
        "fa 31c0 8ed8 8ed0 bc007c fb"  # a stack, the data segment
        "be407c b80043 b280 cd13"  # loop: write the packet at 7c40h to the first disk
        "8306487c40 ebef"  # the next 64 sectors; loop
    ).ljust(0x40, b"\0")
    + bytes.fromhex("1000 4000 0080 0000 4000000000000000").ljust(0x1BE, b"\0")
    + b"\x55\xaa"
)
HELD_DATA_BYTES = 384 * MIB  # more than QEMU copies before a limit bites


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
        number = next(numbers)
        paths = {wish.target: self._image(wish, number) for wish in wishes if not wish.empty_cdrom}
        disks = [self._disk(wish, paths.get(wish.target)) for wish in wishes]
        uuid = self._start(f"team-a_vm-{number}", disks, Options(memory_mib=32, agent=True), persistent=persistent)
        run_disks = tuple(
            run_disk(wish, str(paths[wish.target]), str(self.golden)) for wish in wishes if not wish.empty_cdrom
        )
        return self._placed(make_run(f"team-a_vm-{number}", uuid, str(self.location), run_disks, number))

    def adopt(self, name: str, disks: list[Disk], source: str, options: Options | None = None) -> Run:
        """Start a VM of the test's own making; its first disk has this source and is called vda."""
        uuid = self._start(name, disks, options or Options(memory_mib=32))
        run_disks = (run_disk(Wish(format=disks[0].format), source, ""),)
        return self._placed(make_run(name, uuid, str(self.location), run_disks, next(numbers)))

    def new_vm_without_room(self) -> Run:
        number = next(numbers)
        seed, small = self.daemon.images / f"writer-{number}", self.daemon.images / f"small-{number}"
        seed.write_bytes(WRITER)
        disk = small / "vda.raw"
        mount = f"mount -t tmpfs -o mode=777,size=1m tmpfs {small}"
        image = f"cp {seed} {disk} && truncate -s 16M {disk} && chmod 666 {disk}"
        self.daemon.run("sh", "-c", f"mkdir {small} && {mount} && {image}")
        return self.adopt(f"team-a_vm-{number}", [Disk(disk, "vda", "raw")], str(disk))

    def make_room(self, run: Run) -> None:
        self.daemon.run("mount", "-o", "remount,size=64m", str(Path(run.disk("vda").source).parent))

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
        act = step or BeginPush(targets_of(run))
        if isinstance(act, StartCommit):
            self._hold(run, 1, lambda: self.hypervisor.perform(run, act), lambda: self._cancel(run, act.target))
        else:
            paths = [path for _, path in act.targets]
            sources = [Path(run.disk(target).source) for target, _ in act.targets]
            count = sum(source.stat().st_size >= HELD_DATA_BYTES for source in sources)
            self._hold(run, count, lambda: self.hypervisor.perform(run, act), lambda: self._take_back(run, paths))

    def _hold(self, run: Run, count: int, begin: Callable[[], object], undo: Callable[[], None]) -> None:
        """Begin so many jobs and hold them; on a busy machine one may be over before it could be slowed: once more."""
        for _ in range(HOLD_TRIES):
            with Qmp(self._monitor(run.domain)) as qemu, qemu.slowing():
                begin()
            with Qmp(self._monitor(run.domain)) as qemu:
                if qemu.has_settled(count):
                    return
                qemu.limit_jobs(0)
            undo()
        raise AssertionError(f"over before it was slowed, {HOLD_TRIES} times")

    def _cancel(self, run: Run, target: str) -> None:
        with self.domain(run) as domain:
            domain.blockJobAbort(target)

    def _take_back(self, run: Run, paths: list[str]) -> None:
        """Forget a push that was too quick, so that it can be begun again."""
        eventually(lambda: self.hypervisor.observe(run).completed, "the quick job is over", DEADLINE_SECONDS)
        self.hypervisor.perform(run, DrainStatistics())
        for path in paths:
            Path(path).unlink()

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
        with self.domain(run) as domain:
            self._hold(run, 1, lambda: domain.backupBegin(xml, None, 0), lambda: self._take_back(run, [str(target)]))

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
