"""VMs on a real daemon, what they look like, and what fate does to them."""

import contextlib
import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from testbed.guests import write_pattern
from testbed.hypervisor import Libvirtd as Daemon
from testbed.images import qemu_img

DEADLINE_SECONDS = 60.0
SLOW_BYTES_PER_SECOND = 65536
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Return what the condition returns as soon as it is true. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Portrait:
    """All of a VM that a backup must leave as it was."""

    state: str
    qemu_pid: int | None
    live: dict[str, list[str]]  # target: source, then the images below it
    inactive: dict[str, str]
    jobs: dict[str, Any]
    files: frozenset[str]


@dataclass
class VM:
    """One domain. `paths`: the sources that its disks were given. `home`: the directory with its files."""

    daemon: Daemon
    name: str
    uuid: str
    home: Path
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """Return the name by which the users of its namespace know it."""
        return self.name.partition("_")[2]

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        """Yield the domain on a connection of the test's own: to the engine that is a stranger."""
        connection = libvirt.open(self.daemon.uri)
        try:
            yield connection.lookupByUUIDString(self.uuid)
        finally:
            connection.close()

    def xml(self, flags: int = 0) -> ET.Element:
        with self.domain() as domain:
            return ET.fromstring(domain.XMLDesc(flags))  # noqa: S314 - from our own daemon

    def portrait(self) -> Portrait:
        with self.domain() as domain:
            alive, persistent = bool(domain.isActive()), bool(domain.isPersistent())
            targets = list(_chains(self.xml()))
            jobs = {target: domain.blockJobInfo(target) for target in targets} if alive else {}
            job = domain.jobStats() if alive else {"type": 0}
            state = {libvirt.VIR_DOMAIN_RUNNING: "running", libvirt.VIR_DOMAIN_PAUSED: "paused"}
            return Portrait(
                state=state.get(domain.state()[0], "off"),
                qemu_pid=self.daemon.qemu_pid(self.uuid),
                live={target: chain for target, chain in _chains(self.xml()).items() if chain},
                inactive={t: chain[0] for t, chain in _chains(self.xml(INACTIVE)).items() if chain}
                if persistent
                else {},
                jobs={target: info for target, info in jobs.items() if info} | ({"domain": job} if job["type"] else {}),
                files=frozenset(str(path) for path in self.home.iterdir()),
            )

    def on_overlay(self, target: str = "vda") -> bool:
        return ".overlay" in _chains(self.xml()).get(target, [""])[0]

    def writes(self, target: str, offset_bytes: int, length_bytes: int, byte: int = 0x5A) -> None:
        """Write as the guest would."""
        write_pattern(self.daemon.uri, self.name, target, offset_bytes, length_bytes, byte=byte)

    def holds(self, target: str, offset_bytes: int, byte: int) -> bool:
        """Tell whether a KiB of the disk's own image is full of `byte`."""
        path = self.paths[target]
        check = ["qemu-io", "-r", "-U", "-f", path.suffix[1:], "-c", f"read -P {byte:#x} {offset_bytes} 1k", str(path)]
        result = subprocess.run(check, capture_output=True, text=True, check=False)
        differs = "Pattern verification failed" in result.stdout
        assert differs or result.returncode == 0, result.stderr
        return not differs

    def start(self) -> None:
        with self.domain() as domain:
            domain.create()

    def stop(self) -> None:
        with self.domain() as domain:
            domain.destroy()

    def suspend(self) -> None:
        with self.domain() as domain:
            domain.suspend()

    def kill_qemu(self) -> None:
        """SIGKILL QEMU; return when libvirt has noticed."""
        pid = self.daemon.qemu_pid(self.uuid)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.is_active(), "libvirt notices that QEMU is dead")

    def is_active(self) -> bool:
        connection = libvirt.open(self.daemon.uri)
        try:
            return bool(connection.lookupByUUIDString(self.uuid).isActive())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return False
        finally:
            connection.close()

    def slow_down(self, bytes_per_second: int = SLOW_BYTES_PER_SECOND) -> None:
        """Hold the running push job (0 lets it go), past libvirt: since 11 it lets no limit through."""
        with self.domain() as domain:
            for job in ask_qemu(domain, "query-block-jobs"):
                # A small disk's job may have ended meanwhile.
                ask_qemu(domain, "block-job-set-speed", device=job["device"], speed=bytes_per_second)

    def remove(self) -> None:
        connection = libvirt.open(self.daemon.uri)
        try:
            domain = connection.lookupByUUIDString(self.uuid)
            if domain.isActive():
                domain.destroy()
            connection.lookupByUUIDString(self.uuid).undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        finally:
            connection.close()


def _chains(domain: ET.Element) -> dict[str, list[str]]:
    """Return the paths of every disk's chain, top first."""
    chains: dict[str, list[str]] = {}
    for disk in domain.iterfind("devices/disk"):
        layer: ET.Element | None = disk
        paths: list[str] = []
        while layer is not None:
            source = layer.find("source")
            if source is not None:
                paths.append(source.get("file") or source.get("dev") or source.get("name") or "?")
            layer = layer.find("backingStore")
        chains[disk.find("target").get("dev", "")] = paths  # type: ignore[union-attr]
    return chains


def ask_qemu(domain: libvirt.virDomain, command: str, **arguments: Any) -> Any:
    """Return what QEMU answers, None for an error."""
    request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0)).get("return")


def same_content(image: Path, other: Path) -> bool:
    """Tell whether two images show the same to a guest."""
    formats = [json.loads(qemu_img("info", "-U", "--output=json", str(path)))["format"] for path in (image, other)]
    command = ["qemu-img", "compare", "-U", "-f", formats[0], "-F", formats[1], str(image), str(other)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr  # 1: they differ; more: they could not be compared
    return result.returncode == 0
