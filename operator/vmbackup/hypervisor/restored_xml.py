"""The definition of a restored VM: the set's domain.xml with what must not be shared with the first VM changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed
from vmbackup.hypervisor.domain_xml import parse

CHARACTER_DEVICES = ("serial", "console", "parallel")
HARMLESS_BACKENDS = ("pty", "null", "spicevmc", "spiceport", "dbus", "qemu-vdagent")
OUTSIDE = ("interface", "hostdev", "redirdev", "filesystem", "shmem", "graphics", "tpm", "vsock", "smartcard", "audio")
PLACEMENT = ("memoryBacking", "numatune", "cputune", "blkiotune", "memtune", "maxMemory", "iothreads", "resource")
_UNITS = {
    "b": 1, "bytes": 1, "kb": 1000, "k": 1024, "kib": 1024, "mb": 1000**2, "m": 1024**2, "mib": 1024**2,
    "gb": 1000**3, "g": 1024**3, "gib": 1024**3, "tb": 1000**4, "t": 1024**4, "tib": 1024**4,
}  # fmt: skip


@dataclass(frozen=True)
class NewVM:
    """What is new. `files`: path and format by disk target; `nvram`: path, empty without."""

    name: str
    uuid: str
    files: Mapping[str, tuple[str, str]]
    nvram: str = ""
    keep_mac_addresses: bool = False


@dataclass(frozen=True)
class Isolation:
    """How a copy is shut off: its console goes into a file, its memory is bounded; `tcg` where there is no KVM."""

    serial_path: str
    memory_bytes_max: int
    tcg: bool


def restored_xml(domain_xml: str, new: NewVM, isolation: Isolation | None = None) -> str:
    """Return the XML of the restored VM.

    Writable disks that are not in the set are left out: two VMs would write to one image.
    Raises: Failed: it is not XML that libvirt would write, or a restored disk is not in it.
    """
    root = parse(domain_xml)
    root.attrib.pop("id", None)
    _set(root, "name", new.name)
    _set(root, "uuid", new.uuid)
    _forget_identity(root)
    _set_nvram(root, new.nvram)
    devices = root.find("devices")
    if devices is None:
        raise Failed(Reason.SET_BROKEN, "the set's domain.xml has no devices")
    _set_disks(devices, new.files)
    for element in list(devices):
        _free_backend(element)
        if element.tag == "interface" and not new.keep_mac_addresses:
            _drop(element, "mac")
    if isolation is not None:
        _isolate(root, devices, isolation)
    return ElementTree.tostring(root, encoding="unicode")


def _set(root: Element, tag: str, text: str) -> None:
    element = root.find(tag)
    if element is None:
        element = SubElement(root, tag)
    element.text = text


def _drop(parent: Element, *tags: str) -> None:
    for child in list(parent):
        if child.tag in tags:
            parent.remove(child)


def _forget_identity(root: Element) -> None:
    """Take out what names the first VM: its owner (the new name says whose it is), its BIOS and generation IDs."""
    metadata = root.find("metadata")
    if metadata is not None:
        _drop(metadata, f"{{{names.METADATA_NAMESPACE}}}{names.METADATA_ELEMENT}")
    for system in root.iterfind("sysinfo/system"):
        for entry in [entry for entry in system if entry.get("name") == "uuid"]:
            system.remove(entry)
    generation = root.find("genid")
    if generation is not None:
        generation.text = None


def _set_nvram(root: Element, path: str) -> None:
    nvram = root.find("os/nvram")
    if nvram is not None:
        _drop(nvram, "source")
        nvram.attrib.pop("type", None)
        nvram.text = path or None


def _set_disks(devices: Element, files: Mapping[str, tuple[str, str]]) -> None:
    missing = set(files)
    for disk in devices.findall("disk"):
        target = disk.find("target")
        name = target.get("dev", "") if target is not None else ""
        if name in files:
            missing.discard(name)
            _set_disk(disk, *files[name])
        elif disk.find("readonly") is None and disk.get("device", "disk") not in ("cdrom", "floppy"):
            devices.remove(disk)
    if missing:
        raise Failed(Reason.SET_BROKEN, f"the set's domain.xml has no disk {', '.join(sorted(missing))}")


def _set_disk(disk: Element, path: str, format_: str) -> None:
    _drop(disk, "source", "backingStore", "mirror", "encryption", "transient", "auth")
    disk.set("type", "file")
    if disk.get("device") == "lun":
        disk.set("device", "disk")
    disk.attrib.pop("sgio", None)
    driver = disk.find("driver")
    if driver is None:
        driver = SubElement(disk, "driver", name="qemu")
    driver.set("type", format_)
    SubElement(disk, "source", file=path)


def _free_backend(element: Element) -> None:
    """Let libvirt choose ports, sockets and consoles anew: those of the first VM are taken while it lives."""
    if element.tag in CHARACTER_DEVICES and element.get("type") not in HARMLESS_BACKENDS:
        element.set("type", "pty")
        _drop(element, "source", "protocol")
    if element.tag in (*CHARACTER_DEVICES, "channel"):
        _drop(element, "log")
    if element.tag == "channel" and element.get("type") == "unix":
        _drop(element, "source")
    if element.tag == "graphics":
        for attribute in ("port", "tlsPort", "websocket", "socket"):
            element.attrib.pop(attribute, None)
        element.set("autoport", "yes")
    if element.tag == "interface":
        _drop(element, "target")


def _isolate(root: Element, devices: Element, isolation: Isolation) -> None:
    _drop(devices, *OUTSIDE, *CHARACTER_DEVICES)
    for disk in devices.findall("disk"):
        if disk.get("device", "disk") in ("cdrom", "floppy"):
            devices.remove(disk)
    serial = SubElement(devices, "serial", type="file")
    SubElement(serial, "source", path=isolation.serial_path)
    SubElement(serial, "target", port="0")
    _drop(root, *PLACEMENT)
    _bound_memory(root, isolation.memory_bytes_max)
    for tag in ("on_poweroff", "on_crash"):
        _set(root, tag, "destroy")
    if isolation.tcg and root.get("type") == "kvm":
        root.set("type", "qemu")
        _drop(root, "cpu")


def _bound_memory(root: Element, bytes_max: int) -> None:
    memory = root.find("memory")
    wanted = bytes_max
    if memory is not None and (memory.text or "").strip().isdigit():
        wanted = int((memory.text or "").strip()) * _UNITS.get(memory.get("unit", "KiB").lower(), 1024)
    if memory is None or wanted > bytes_max:
        for numa in root.iterfind("cpu"):
            _drop(numa, "numa")  # its cells would have to add up to the memory
    _drop(root, "memory", "currentMemory")
    SubElement(root, "memory", unit="KiB").text = str(min(wanted, bytes_max) // 1024)
