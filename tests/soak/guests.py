"""The VMs: what they write, and what must be on their disks because they have written it."""

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import libvirt
import libvirt_qemu

from testbed.errors import TestbedError
from testbed.guests import Disk, Options, domain_xml, write_pattern
from testbed.images import sequence_numbers
from testbed.proof import Finding, home, sources

NAMESPACE = "soak"
MIB = 1 << 20
SLOTS, SLOT_BYTES = 30, 64 << 10  # one in every other MiB: the smallest disk has 64
WRITE_REST_SECONDS = 0.7
START_SECONDS = 120.0
T = TypeVar("T")


@dataclass
class Guest:
    """One VM. `name` is what users call it."""

    name: str
    uri: str
    disks: tuple[Disk, ...]
    options: Options = field(default_factory=Options)
    writes: bool = True
    touched: threading.Lock = field(default_factory=threading.Lock)  # held while somebody starts, ends or changes it
    strange_snapshots: int = 0
    uuid: str = ""

    def __post_init__(self) -> None:
        self.domain = f"{NAMESPACE}_{self.name}"
        self.own = {disk.target: str(disk.source) for disk in self.disks}
        # What a slot may hold: one value, or two when a write was cut off.
        self.slots: dict[tuple[str, int], set[int]] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.own)

    def define(self) -> None:
        connection = libvirt.open(self.uri)
        self.uuid = connection.defineXML(domain_xml(self.domain, self.disks, self.options)).UUIDString()
        connection.close()

    def start(self) -> None:
        """Start it, as its owner does: as often as it takes. Raises the last error after two minutes."""
        deadline = time.monotonic() + START_SECONDS
        seen = 0
        while seen < 2:  # a libvirtd that is killed while it starts a VM ends that VM when it is back
            try:
                ran = self.call(lambda domain: bool(domain.isActive() or domain.create()))
                seen = seen + 1 if ran else 0
            except libvirt.libvirtError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1.0)

    def call(self, what: Callable[[libvirt.virDomain], T]) -> T:
        """Do something with the domain on a connection of its own. Raises libvirt.libvirtError."""
        connection = libvirt.open(self.uri)
        try:
            return what(connection.lookupByName(self.domain))
        finally:
            connection.close()

    def state(self) -> str:
        """Return running, paused or off. Raises libvirt.libvirtError."""
        state, _ = self.call(lambda domain: domain.state())
        if state == libvirt.VIR_DOMAIN_RUNNING:
            return "running"
        return "paused" if state == libvirt.VIR_DOMAIN_PAUSED else "off"

    def is_home(self) -> Finding:
        """Raises libvirt.libvirtError."""
        return home(self.uri, self.domain, self.own)

    def write_for_ever(self, over: threading.Event, dice: random.Random) -> None:
        """Write patterns to random slots until told to end; what is acknowledged must be there at the end."""
        value = 0
        while not over.wait(WRITE_REST_SECONDS):
            target, slot, value = dice.choice(self.targets), dice.randrange(SLOTS), value % 255 + 1
            may_hold = self.slots.setdefault((target, slot), {-1})  # -1: what was there before
            may_hold.add(value)
            with suppress(libvirt.libvirtError, TestbedError):
                write_pattern(self.uri, self.domain, target, 2 * slot * MIB, SLOT_BYTES, byte=value)
                may_hold.intersection_update({value})

    def lost_writes(self) -> list[str]:
        """Return the slots whose content is none of what it may be. The VM must be off."""
        lost = []
        for (target, slot), may_hold in sorted(self.slots.items()):
            if -1 in may_hold:
                continue
            disk = next(disk for disk in self.disks if disk.target == target)
            if not any(_holds(disk, slot, value) for value in may_hold):
                lost.append(f"{target} slot {slot}: none of {sorted(may_hold)}")
        return lost

    def number(self) -> int | None:
        """Return the number on the first disk as the guest sees it now; None while that cannot be told."""
        with suppress(libvirt.libvirtError, TestbedError, OSError):
            live = sources(self.uri, self.domain)
            return sequence_numbers(Path(live["vda"]), Path(live["vda"]))[0]
        return None

    def frozen(self) -> bool | None:
        """Return whether the guest's file systems are frozen; None while nobody answers."""
        with suppress(libvirt.libvirtError):
            answer = self.call(
                lambda domain: libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-fsfreeze-status"}', 5, 0)
            )
            return bool(re.search('"frozen"', answer))
        return None


def _holds(disk: Disk, slot: int, value: int) -> bool:
    command = f"read -P {value} {2 * slot * MIB} {SLOT_BYTES}"
    asked = ["qemu-io", "-r", "-f", disk.format, "-c", command, str(disk.source)]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)
    return said.returncode == 0 and "failed" not in said.stdout
