"""libvirt's XML: reading what a domain is, as text in and facts out. A domain's XML is written by others: hostile."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.core.facts import BlockJob, DiskFacts, Image
from vmbackup.errors import Failed

LONGEST_XML = 2 * 1024 * 1024  # characters; libvirt itself sends no string over 4 MiB (REMOTE_STRING_MAX)
LONGEST_CHAIN = 200  # layers; libvirt starts no domain with more (QEMU_DOMAIN_STORAGE_SOURCE_CHAIN_MAX_DEPTH)
# libvirt puts line breaks and tabs into attributes as they are, and XML reads them as blanks: another file's name.
_BROKEN_VALUE = re.compile(r"='[^'<\n\r\t]*[\n\r\t][^'<]*'")
AGENT_CHANNEL = "org.qemu.guest_agent.0"
SOURCE_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "file": ("file",),
    "block": ("dev",),
    "dir": ("dir",),
    "network": ("protocol", "name"),
    "volume": ("pool", "volume"),
    "nvme": ("type", "namespace"),
    "vhostuser": ("path",),
    "vhostvdpa": ("dev",),
}


@dataclass(frozen=True)
class DomainXML:
    """What we read from a domain's XML. `owner`: the namespace in our metadata element, None without one."""

    name: str
    uuid: str
    disks: tuple[DiskFacts, ...]
    guest_agent: bool
    owner: str | None


def parse(text: str) -> Element:
    """Return the root element. No DTD, so no entities that grow; no text beyond what libvirt sends.

    Raises: Failed: it is not XML that libvirt would write.
    """
    if len(text) > LONGEST_XML:
        raise Failed(Reason.HYPERVISOR_ERROR, f"libvirt sent XML of {len(text)} characters: not read.")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise Failed(Reason.HYPERVISOR_ERROR, "libvirt sent XML with a document type definition: not read.")
    try:
        return ElementTree.fromstring(_BROKEN_VALUE.sub(_escaped, text))  # noqa: S314 - without a DTD there is nothing to expand
    except (ElementTree.ParseError, ValueError) as error:
        raise Failed(Reason.HYPERVISOR_ERROR, f"libvirt sent XML that cannot be read: {error}.") from error


def _escaped(value: re.Match[str]) -> str:
    return value[0].translate({ord(blank): f"&#{ord(blank)};" for blank in "\n\r\t"})


def read_domain(text: str) -> DomainXML:
    """Read a live or an inactive domain. Sizes and jobs without `<mirror>` are not in the XML.

    Raises: Failed: it is not XML that libvirt would write.
    """
    root = parse(text)
    return DomainXML(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        disks=tuple(read_disk(disk) for disk in root.iterfind("devices/disk") if _target(disk)),
        guest_agent=any(_is_agent(target) for target in root.iterfind("devices/channel/target")),
        owner=_owner(root.find("metadata")),
    )


def read_disk(disk: Element) -> DiskFacts:
    """Return what the XML says of one disk; `kind` and `source` are empty for a drive without a medium."""
    kind, source = read_source(disk)
    driver = disk.find("driver")
    return DiskFacts(
        target=_target(disk),
        device=disk.get("device", "disk"),
        kind=kind if source else "",
        source=source,
        format=(driver.get("type") if driver is not None else None) or "raw",
        readonly=disk.find("readonly") is not None,
        shareable=disk.find("shareable") is not None,
        transient=disk.find("transient") is not None,
        encrypted=disk.find("encryption") is not None or disk.find("source/encryption") is not None,
        backing=_chain(disk),
        job=_mirror(disk.find("mirror")),
    )


def read_source(element: Element) -> tuple[str, str]:
    """Return kind and source of a `<disk>`, `<backingStore>` or `<mirror>`; the source is empty when there is none."""
    kind = element.get("type", "file")
    source = element.find("source")
    if source is None:
        return kind, ""
    attributes = SOURCE_ATTRIBUTES.get(kind, ())
    return kind, ":".join(filter(None, (source.get(name) for name in attributes))) or ("" if attributes else "unknown")


def read_owner(text: str) -> str | None:
    """Return the namespace that our metadata element names, as virDomainGetMetadata returned the element."""
    return parse(text).get("namespace", "")


def read_push_targets(text: str) -> dict[str, str]:
    """Return the files that a running push backup writes, by disk; empty for a pull backup.

    Raises: Failed: it is not XML that libvirt would write.
    """
    root = parse(text)
    if root.get("mode", "push") != "push":
        return {}
    targets: dict[str, str] = {}
    for disk in root.iterfind("disks/disk"):
        target = disk.find("target")
        if disk.get("backup") == "yes" and target is not None:
            targets[disk.get("name", "")] = target.get("file") or target.get("dev") or ""
    return targets


def confined_by_apparmor(capabilities: str) -> bool:
    """Return whether libvirt puts QEMU into AppArmor profiles, by the host's capabilities XML."""
    return any(model.text == "apparmor" for model in parse(capabilities).iterfind("host/secmodel/model"))


def _target(disk: Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _chain(disk: Element) -> tuple[Image, ...]:
    layers: list[Image] = []
    layer = disk.find("backingStore")
    while layer is not None and layer.get("type"):
        if len(layers) == LONGEST_CHAIN:
            raise Failed(Reason.HYPERVISOR_ERROR, f"Disk {_target(disk)} has over {LONGEST_CHAIN} backing files.")
        kind, source = read_source(layer)
        form = layer.find("format")
        layers.append(Image(source, form.get("type", "raw") if form is not None else "raw", kind))
        layer = layer.find("backingStore")
    return tuple(layers)


def _mirror(mirror: Element | None) -> BlockJob | None:
    """Return the block job that `<mirror>` shows. Only `ready='yes'` means ready: never judge by its bytes."""
    if mirror is None:
        return None
    _, path = read_source(mirror)
    ready = mirror.get("ready") == "yes"
    return BlockJob(mirror.get("job", "copy"), ready=ready, mirror_path=path or mirror.get("file", ""))


def _is_agent(target: Element) -> bool:
    return target.get("name") == AGENT_CHANNEL and target.get("state") == "connected"


def _owner(metadata: Element | None) -> str | None:
    element = None
    if metadata is not None:
        element = metadata.find(f"{{{names.METADATA_NAMESPACE}}}{names.METADATA_ELEMENT}")
    return element.get("namespace", "") if element is not None else None
