"""The VM that every cell backs up: two disks, a golden image below one, and a guest that never stops writing."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from integration.libvirt.machines import VM, Portrait, wait_until
from testbed.boot import boot_files
from testbed.errors import TestbedError
from testbed.guests import Boot, Disk, Options, domain_xml, start_guest, wait_until_ready
from testbed.hypervisor import Libvirtd
from testbed.images import overlay_image, qemu_img, sequence_numbers
from testbed.lost import bring_back
from vmbackup.units import MIB

NAME, SHORT_NAME, NAMESPACE = "fault_web", "web", "fault"
GOLDEN_MIB, RAW_MIB, PIECE_BYTES = 256, 64, 64 << 10
OVERWRITTEN_BYTES = 4 * MIB
SEQUENCE_REST_MICROSECONDS = 30_000
TROUBLE = re.compile(r".*(?:I/O error|sequence:|EXT4-fs error|Kernel panic).*")
AGENT_SECONDS = 10
SCRIPTS = Path(__file__).with_name("guest")
DISK_ONLY = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
HELD_BYTES_PER_SECOND, SOON_BYTES_PER_SECOND = 65536, 150 * MIB


class Machine:
    """`disks` holds its images and a foreign file, `golden` the image that belongs to nobody but its owner."""

    def __init__(self, host: Libvirtd, disks: Path) -> None:
        self.host, self.disks = host, disks
        self.golden = disks / "golden.qcow2"
        self.foreign = disks / ".vmbackup.not-ours.txt"
        self._serial = host.images / "serial.log"
        self._boot = host.images / "boot"
        self._failed_before: dict[str, int] = {}
        self.vm: VM

    # -- its life -----------------------------------------------------------------------------------------------

    def build(self, error_policy: str = "") -> None:
        """Make the images afresh, start the VM and return when its guest writes."""
        if hasattr(self, "vm"):
            self.vm.remove()
            self._end_lost_qemu()
        shutil.rmtree(self.disks, ignore_errors=True) if not self.disks.is_mount() else _empty(self.disks)
        for directory in (self.disks, self._boot):
            directory.mkdir(mode=0o755, exist_ok=True)
        self.foreign.write_text("not ours\n")
        scattered_image(self.golden, "qcow2", GOLDEN_MIB * MIB)
        self.golden_digest = digest(self.golden)
        vda = overlay_image(self.disks / "vda.qcow2", self.golden)
        zero = f"write -z 0 {MIB}"  # no partitions: the guest makes its own
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", zero, str(vda)], check=True, capture_output=True)
        vdb = scattered_image(self.disks / "vdb.raw", "raw", RAW_MIB * MIB)
        uuid = start_guest(self.host.uri, self._xml(vda, vdb, error_policy))
        self.vm = VM(self.host, NAME, uuid, self.disks, {"vda": vda, "vdb": vdb})
        with self.vm.domain() as domain:
            self._definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        self.until_working()

    def _end_lost_qemu(self) -> None:
        if (pid := self.host.qemu_pid(self.vm.uuid)) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.host.qemu_pid(self.vm.uuid) is None, "QEMU is gone")

    def _xml(self, vda: Path, vdb: Path, error_policy: str) -> str:
        kernel, initramfs = boot_files(self._boot)
        arguments = f"testbed.ext4=vda testbed.sequence=vda,vdb,{SEQUENCE_REST_MICROSECONDS}"
        boot = Boot(kernel, initramfs, self._serial, arguments)
        disks = [Disk(vda, "vda", error_policy=error_policy), Disk(vdb, "vdb", "raw", error_policy=error_policy)]
        return domain_xml(NAME, disks, Options(memory_mib=160, agent=True, boot=boot))

    def until_working(self) -> None:
        """Return when the guest writes and its agent answers."""
        wait_until_ready(self._serial)
        wait_until(self.agent_answers, "the guest's agent answers")
        mounts = self.ask_agent("guest-get-fsinfo")
        assert [mount["mountpoint"] for mount in mounts] == ["/data"], mounts
        wait_until(lambda: self.numbers()[0] > 0, "the guest writes numbers")

    def start_again(self) -> None:
        """Start the VM as its owner would, if it is off; a daemon that was just started may not know it yet."""

        def started() -> bool:
            if self.host.qemu_pid(self.vm.uuid) is None and not self.vm.is_active():
                self._serial.unlink(missing_ok=True)
                with suppress(libvirt.libvirtError):  # virtlogd may still hold the log of the QEMU before
                    self.vm.start()
            return self.host.qemu_pid(self.vm.uuid) is not None

        wait_until(started, "the VM is started again")

    def is_lost(self) -> bool:
        """Tell whether the VM runs while libvirt takes it for off; raises libvirt.libvirtError."""
        return self.host.qemu_pid(self.vm.uuid) is not None and not self.vm.is_active()

    def bring_back(self) -> None:
        """Give a lost VM the definition that its QEMU lives by, and end it, as docs/operations.md says."""
        bring_back(self.host, NAME, self.vm.uuid)

    # -- eyes ---------------------------------------------------------------------------------------------------

    def portrait(self) -> Portrait:
        """Return all that a backup must leave as it was; raises libvirt.libvirtError while the daemon is away."""
        return self.vm.portrait()

    def numbers(self) -> tuple[int, int]:
        """Return the last numbers on A and B; (0, 0) before the first."""
        live = self.portrait().live
        try:
            return sequence_numbers(Path(live["vda"][0]), Path(live["vdb"][0]))
        except (TestbedError, KeyError):
            return (0, 0)

    def writes(self) -> tuple[int, int]:
        """Return how many writes of the guest were done, and how many failed, in this QEMU process."""
        with self.vm.domain() as domain:
            statistics = [entry["stats"] for entry in _ask_qemu(domain, "query-blockstats")]
        return sum(s["wr_operations"] for s in statistics), sum(s["failed_wr_operations"] for s in statistics)

    def trouble(self) -> list[str]:
        """Return the lines in which the guest complains of its disks."""
        return TROUBLE.findall(self._serial.read_text(errors="replace")) if self._serial.exists() else []

    def ask_agent(self, command: str, *, seconds: int = AGENT_SECONDS, **arguments: Any) -> Any:
        """Ask the guest agent. Raises libvirt.libvirtError: it does not answer."""
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        with self.vm.domain() as domain:
            return json.loads(libvirt_qemu.qemuAgentCommand(domain, request, seconds, 0))["return"]

    def agent_answers(self, seconds: int = AGENT_SECONDS) -> bool:
        try:
            self.ask_agent("guest-ping", seconds=seconds)
        except libvirt.libvirtError:
            return False
        return True

    def frozen(self) -> bool:
        return bool(self.ask_agent("guest-fsfreeze-status") == "frozen")

    def in_guest(self, script: str) -> None:
        """Run a shell script in the guest, beside everything else; nobody waits for it."""
        self.ask_agent("guest-exec", path="/bin/busybox", arg=["sh", "-c", script])

    def play_in_guest(self, name: str) -> None:
        """Run one of the scripts of `guest/`."""
        self.in_guest("".join((SCRIPTS / f"{part}.sh").read_text() for part in ("start_agent", name)))

    def until_agent_silent(self) -> None:
        wait_until(lambda: not self.agent_answers(seconds=1), "the guest's agent is silent")

    def until_agent_refuses(self) -> None:
        def refuses() -> bool:
            try:
                self.ask_agent("guest-ping", seconds=1)
            except libvirt.libvirtError as error:
                return "on fire" in str(error)
            return False

        wait_until(refuses, "the false agent answers with its error")

    # -- hands --------------------------------------------------------------------------------------------------

    def hold_push(self, seconds: float = 5.0) -> bool:
        """Hold the push job that runs or is about to, past libvirt; return whether there is one."""
        deadline = time.monotonic() + seconds
        with self.vm.domain() as domain:
            while not (held := _set_speed(domain, HELD_BYTES_PER_SECOND)) and time.monotonic() < deadline:
                pass  # every millisecond of it copies a megabyte
        return held

    def let_push_go(self) -> None:
        with self.vm.domain() as domain:
            _set_speed(domain, 0)

    def let_push_end_soon(self) -> None:
        with self.vm.domain() as domain:
            _set_speed(domain, SOON_BYTES_PER_SECOND)

    def define_on_bases(self) -> None:
        """Define the VM as it was at first, as a tool does that keeps the XML itself."""
        connection = libvirt.open(self.host.uri)
        try:
            connection.defineXML(self._definition)
        finally:
            connection.close()

    def undefine(self) -> None:
        """Leave the VM running as a transient one."""
        with self.vm.domain() as domain:
            domain.undefine()

    def take_foreign_snapshot(self) -> None:
        """Let a stranger end what runs on the disks, which libvirt asks for, and take a snapshot."""
        with self.vm.domain() as domain:
            for target in ("vda", "vdb"):
                if domain.blockJobInfo(target):
                    domain.blockJobAbort(target)
            disks = "".join(
                f"<disk name='{target}' snapshot='external' type='file'>"
                f"<source file='{self.disks}/stranger.{target}.qcow2'/></disk>"
                for target in ("vda", "vdb")
            )
            domain.snapshotCreateXML(f"<domainsnapshot><disks>{disks}</disks></domainsnapshot>", DISK_ONLY)

    @contextmanager
    def foreign_block_job(self) -> Iterator[None]:
        """Let a stranger copy vdb to a file of its own."""
        file = self.host.images / "stranger.raw"
        with self.vm.domain() as domain:
            xml = f"<disk type='file'><source file='{file}'/><driver type='raw'/></disk>"
            domain.blockCopy("vdb", xml, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
            try:
                yield
            finally:
                domain.blockJobAbort("vdb", 0)
                file.unlink(missing_ok=True)

    def overwrite_late_data(self) -> None:
        """Write, as the guest does, over data near the end of vdb, which a held push has not reached."""
        pieces = OVERWRITTEN_BYTES // PIECE_BYTES
        at = (RAW_MIB * MIB - 2 * OVERWRITTEN_BYTES) // PIECE_BYTES
        self.in_guest(f"dd if=/dev/zero of=/dev/vdb bs={PIECE_BYTES} seek={at} count={pieces} conv=notrunc,fsync")

    def write_until_paused(self) -> None:
        """Write as the guest does until its disks' file system is full; a write that finds no room pauses the VM."""
        self.in_guest("dd if=/dev/zero of=/data/filling bs=1M count=8 conv=fsync")
        wait_until(lambda: self.portrait().state == "paused", "the VM is paused by a write that found no room", 30)

    def until_off(self) -> None:
        wait_until(lambda: not self.vm.is_active(), "the VM is off")

    def kill_qemu_unseen(self, kill_daemon: Callable[[], None]) -> None:
        """Kill QEMU when nobody looks: the daemon is killed first, so that it has no say."""
        pid = self.host.qemu_pid(self.vm.uuid)
        kill_daemon()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.host.qemu_pid(self.vm.uuid) is None, "QEMU is gone")


def _ask_qemu(domain: libvirt.virDomain, command: str, **arguments: Any) -> Any:
    """Ask QEMU's monitor past libvirt. Raises libvirt.libvirtError."""
    request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0))["return"]


def _set_speed(domain: libvirt.virDomain, bytes_per_second: int) -> bool:
    """Set the speed of all block jobs, return whether there are any."""
    jobs = _ask_qemu(domain, "query-block-jobs")
    for job in jobs:
        with suppress(libvirt.libvirtError, KeyError):  # it has ended meanwhile
            _ask_qemu(domain, "block-job-set-speed", device=job["device"], speed=bytes_per_second)
    return bool(jobs)


def scattered_image(path: Path, image_format: str, virtual_bytes: int) -> Path:
    """Make an image whose every other 64 KiB are random data.

    QEMU copies at most one piece of data at a time with each of its 64 workers; with pieces of many MiB a whole disk
    would be under way before a job could be held.
    """
    raw = path if image_format == "raw" else path.with_name(f"{path.name}.raw")
    block = os.urandom(PIECE_BYTES)
    with raw.open("wb") as file:
        for offset in range(2 * PIECE_BYTES, virtual_bytes, 2 * PIECE_BYTES):
            os.pwrite(file.fileno(), offset.to_bytes(8, "little") + block[8:], offset)
        file.truncate(virtual_bytes)
    if raw != path:
        qemu_img("convert", "-f", "raw", "-O", image_format, str(raw), str(path))
        raw.unlink()
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def patiently(look: Callable[[], Any], seconds: float) -> Any:
    """Return what `look` returns as soon as it is true, None when it never was; the daemon may be away meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(libvirt.libvirtError):
            if found := look():
                return found
        time.sleep(0.05)
    return None
