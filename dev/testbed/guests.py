"""Domains: their XML, their start, and writes to their disks while they run."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import libvirt_qemu

from testbed.errors import TestbedError

AGENT_PORT = "org.qemu.guest_agent.0"
READY_SECONDS = 120  # a guest without KVM on a busy machine


@dataclass(frozen=True)
class Disk:
    """One disk of a domain. `source` None is an empty drive; a block device is recognised by itself.

    error_policy: what becomes of the guest when a write fails; empty is QEMU's own choice.
    """

    source: Path | None
    target: str = "vda"
    format: str = "qcow2"
    device: str = "disk"  # or "cdrom"
    read_only: bool = False
    shareable: bool = False
    error_policy: str = ""


@dataclass(frozen=True)
class Boot:
    """What makes a guest boot: the files of `testbed.boot`, kernel arguments and where its console goes.

    Kernel arguments: testbed.ext4=vda, testbed.sequence=vda,vdb,MICROSECONDS (rest between two numbers).
    """

    kernel: Path
    initramfs: Path
    serial_log: Path
    arguments: str = ""


@dataclass(frozen=True)
class Options:
    """The less used parts of a domain. `metadata` is one XML element; `agent` adds the guest agent's channel."""

    memory_mib: int = 64
    uuid: str | None = None
    metadata: str | None = None
    agent: bool = False
    boot: Boot | None = None
    devices: Sequence[str] = field(default_factory=tuple)  # more XML elements for <devices>


def domain_xml(name: str, disks: Sequence[Disk], options: Options | None = None) -> str:
    """Return the XML of a domain without KVM. Without `options.boot` it idles in its firmware."""
    options = options or Options()
    domain = ET.Element("domain", type="qemu")
    _text(domain, "name", name)
    if options.uuid:
        _text(domain, "uuid", options.uuid)
    if options.metadata:
        ET.SubElement(domain, "metadata").append(ET.fromstring(options.metadata))  # noqa: S314 - our own XML
    _text(domain, "memory", str(options.memory_mib), unit="MiB")
    _text(domain, "vcpu", "1")
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch="x86_64", machine="q35")
    if options.boot:
        _text(system, "kernel", str(options.boot.kernel))
        _text(system, "initrd", str(options.boot.initramfs))
        agent = f"testbed.agent={AGENT_PORT} " if options.agent else ""
        _text(system, "cmdline", f"console=ttyS0 quiet panic=1 {agent}{options.boot.arguments}".strip())
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    devices = ET.SubElement(domain, "devices")
    for disk in disks:
        _disk(devices, disk)
    if options.agent:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name=AGENT_PORT)
    if options.boot:
        ET.SubElement(ET.SubElement(devices, "serial", type="file"), "source", path=str(options.boot.serial_log))
    ET.SubElement(devices, "memballoon", model="none")
    devices.extend(ET.fromstring(element) for element in options.devices)  # noqa: S314 - our own XML
    return ET.tostring(domain, encoding="unicode")


def start_guest(uri: str, xml: str, *, define: bool = True) -> str:
    """Start a domain, persistent with `define`, and return its UUID. Raises libvirt.libvirtError."""
    connection = libvirt.open(uri)
    try:
        if not define:
            return str(connection.createXML(xml).UUIDString())
        domain = connection.defineXML(xml)
        domain.create()
        return str(domain.UUIDString())
    finally:
        connection.close()


def wait_until_ready(serial_log: Path) -> None:
    """Return when a booting guest has written READY to its console. Raises TestbedError after 120 s."""
    deadline = time.monotonic() + READY_SECONDS
    while not serial_log.exists() or "READY" not in serial_log.read_text(errors="replace").split():
        if time.monotonic() > deadline:
            raise TestbedError(f"The guest is not READY after {READY_SECONDS} s: see {serial_log}.")
        time.sleep(0.1)


def write_pattern(uri: str, name: str, target: str, offset_bytes: int, length_bytes: int, *, byte: int = 0x5A) -> None:
    """Write `byte` to a running domain's disk as its guest would, to the active layer, and flush it.

    QEMU reports a failed write (such as one past the end) only in the domain's log, not here.
    Raises TestbedError for an unknown disk or no running domain, libvirt.libvirtError when there is no such domain.
    """
    connection = libvirt.open(uri)
    try:
        domain = connection.lookupByName(name)
        description = ET.fromstring(domain.XMLDesc())  # noqa: S314 - from our own daemon
        alias = description.find(f"devices/disk/target[@dev='{target}']/../alias")
        if alias is None:
            raise TestbedError(f"{name} does not run or has no disk {target}.")
        for action in (f"write -P {byte:#x} {offset_bytes} {length_bytes}", "flush"):
            command = f'qemu-io -d /machine/peripheral/{alias.get("name")}/virtio-backend "{action}"'
            answer = libvirt_qemu.qemuMonitorCommand(domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
            if answer.strip():
                raise TestbedError(f"{action} on {target} of {name} failed: {answer.strip()}")
    finally:
        connection.close()


def _disk(devices: ET.Element, disk: Disk) -> None:
    block = disk.source is not None and disk.source.is_block_device()
    element = ET.SubElement(devices, "disk", type="block" if block else "file", device=disk.device)
    driver = ET.SubElement(element, "driver", name="qemu", type=disk.format)
    if disk.error_policy:
        driver.set("error_policy", disk.error_policy)
    if disk.source:
        ET.SubElement(element, "source", {"dev" if block else "file": str(disk.source)})
    ET.SubElement(element, "target", dev=disk.target, bus="sata" if disk.device == "cdrom" else "virtio")
    if disk.read_only or disk.device == "cdrom":
        ET.SubElement(element, "readonly")
    if disk.shareable:
        ET.SubElement(element, "shareable")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
