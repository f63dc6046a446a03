"""A VM that runs on while libvirt takes it for off: how libvirt 9.0 comes to lose one, and how a human brings it back.

When it is killed in the middle of a pivot it has just written `<mirror job=''>` into its status file, and cannot read
that at its next start. What is done then is what docs/operations.md says: the definition gets the files that QEMU
really uses, then QEMU is ended and the VM may be started again.
"""

import json
import re
import socket
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any, Self

import libvirt

from testbed.errors import TestbedError
from testbed.hypervisor import Libvirtd

END_SECONDS = 20.0
COMMIT = "job='active-commit'"
MIRROR = "<mirror type='file' job=''><format type='qcow2'/><source/></mirror>"


@dataclass(frozen=True)
class UsedImage:
    """What QEMU has open for a disk."""

    path: str
    format: str


def make_status_unreadable(host: Libvirtd, domain: str) -> None:
    """Leave the status file of a running domain as an unlucky pivot does; its daemon must be down."""
    status = host.directory / "run/qemu" / f"{domain}.xml"
    text = status.read_text()
    found, fresh = (COMMIT, "job=''") if COMMIT in text else ("<target dev=", f"{MIRROR}<target dev=")
    text = text.replace(found, fresh)
    if "job=''" not in text:
        raise TestbedError(f"{status} names no disk: {text}")
    status.write_text(text)


def bring_back(host: Libvirtd, domain: str, domain_uuid: str) -> dict[str, UsedImage]:
    """Define a lost domain with the images that its QEMU uses, end QEMU, and return those images by disk target.

    Raises: OSError: QEMU's monitor does not answer; TestbedError: QEMU does not end; libvirt.libvirtError.
    """
    monitors = (host.directory / "lib/qemu").glob(f"domain-*-{domain}/monitor.sock")
    with _Monitor(str(next(monitors))) as monitor:
        images = monitor.images()
        _define(host.uri, domain, images)
        monitor.ask("quit")
    deadline = time.monotonic() + END_SECONDS
    while host.qemu_pid(domain_uuid) is not None:
        if time.monotonic() > deadline:
            raise TestbedError(f"The QEMU of {domain} was told to quit and runs on after {END_SECONDS:.0f} s.")
        time.sleep(0.05)
    return images


def _define(uri: str, name: str, images: dict[str, UsedImage]) -> None:
    connection = libvirt.open(uri)
    try:
        definition = ET.fromstring(connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))  # noqa: S314
        for disk in definition.iterfind("devices/disk"):
            target, driver, source = disk.find("target"), disk.find("driver"), disk.find("source")
            if target is not None and driver is not None and source is not None:
                image = images[target.attrib["dev"]]
                driver.set("type", image.format)
                source.set("file", image.path)
        connection.defineXML(ET.tostring(definition, encoding="unicode"))
    finally:
        connection.close()


class _Monitor:
    """QEMU's monitor, which libvirt has left behind."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(END_SECONDS)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str) -> Any:
        self._stream.write(json.dumps({"execute": command}) + "\n")
        self._stream.flush()
        while True:
            answer = json.loads(self._stream.readline())
            if "event" not in answer:
                return answer["return"]

    def images(self) -> dict[str, UsedImage]:
        """Return the image of every disk by target: libvirt numbers them in this order."""
        found = {}
        for block in self.ask("query-block"):
            number = re.search(r"virtio-disk(\d+)", block["qdev"])
            if number:
                target = f"vd{'abcdefgh'[int(number[1])]}"
                found[target] = UsedImage(block["inserted"]["file"], block["inserted"]["drv"])
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
