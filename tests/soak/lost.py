"""libvirt 9.0 can forget a VM that runs, when it is killed in the middle of a pivot: then a human must help.

This is that human, who does what docs/operations.md says: the definition gets the files that QEMU really uses, then
QEMU is ended and the VM started again.
"""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import libvirt

from soak.guests import Guest
from soak.history import wait_until
from soak.record import Record
from soak.scene import Scene
from testbed.guests import domain_xml

LOOK_SECONDS = 4.0
END_SECONDS = 20.0


def help_lost_vms(scene: Scene, over: Event, record: Record) -> None:
    """Look for lost VMs until it is over. One that is only just ending or starting is none."""
    seen: dict[str, int | None] = {}
    while not over.wait(LOOK_SECONDS):
        for name, guest in scene.guests.items():
            before, seen[name] = seen.get(name), lost_process(scene, guest)
            if seen[name] is not None and seen[name] == before:
                record.count("VMs that libvirt had lost, helped by hand")
                record.say(f"libvirt has lost VM {name}, which runs as process {seen[name]}")
                bring_back(scene, guest, record.say)
                seen[name] = None


def lost_process(scene: Scene, guest: Guest) -> int | None:
    """Return the QEMU of a VM that libvirt takes for off."""
    try:
        off = guest.state() == "off"
    except libvirt.libvirtError:
        return None
    return scene.host.qemu_pid(guest.uuid) if off else None


def bring_back(scene: Scene, guest: Guest, say: Callable[[str], None]) -> None:
    """Raises OSError when QEMU's monitor does not answer."""
    monitors = (scene.host.directory / "lib/qemu").glob(f"domain-*-{guest.domain}/monitor.sock")
    with _Monitor(next(monitors)) as monitor:
        files = monitor.files()
        say(f"VM {guest.name} really uses {files}")
        disks = tuple(replace(disk, source=Path(files[disk.target][0])) for disk in guest.disks)
        disks = tuple(replace(disk, format=files[disk.target][1]) for disk in disks)
        connection = libvirt.open(guest.uri)
        options = replace(guest.options, uuid=guest.uuid)
        connection.defineXML(domain_xml(guest.domain, disks, options))
        connection.close()
        monitor.ask("quit")
    wait_until(lambda: scene.host.qemu_pid(guest.uuid) is None, END_SECONDS)
    guest.start()


class _Monitor:
    """QEMU's monitor, which libvirt has left behind."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(END_SECONDS)
        self._socket.connect(str(path))
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

    def files(self) -> dict[str, tuple[str, str]]:
        """Return file and format of every disk by target: libvirt numbers them in this order."""
        found = {}
        for block in self.ask("query-block"):
            number = re.search(r"virtio-disk(\d+)", block["qdev"])
            if number:
                target = f"vd{'abcdefgh'[int(number[1])]}"
                found[target] = (block["inserted"]["file"], block["inserted"]["drv"])
        return found

    def __enter__(self) -> "_Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
