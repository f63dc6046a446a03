"""Looks all the time whether the VMs run as they should, and whether our programs say what they never should say."""

import re
import threading
import time
from contextlib import suppress
from pathlib import Path

import libvirt

from integration.system.programs import Program
from soak.faults import pid
from soak.guests import Guest
from soak.record import Record
from soak.scene import Scene

LOOK_SECONDS = 2.0
STILL_SECONDS = 60.0  # a counter that stands still for so long, on two busy cores, is not just slow
FROZEN_SECONDS = 30.0
PAUSED_SECONDS = 15.0
RSS_BYTES_MAX = 400 << 20
SAID_LOOKS = 10


class Watch:
    """One thread. What is out of order for a while, with nobody at work on it, is a violation."""

    def __init__(self, scene: Scene, record: Record) -> None:
        self.scene, self.record = scene, record
        self.number = 0
        self.rss_bytes: dict[str, list[int]] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._read: dict[Path, int] = {}

    def watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        for guest in self.scene.guests.values():
            self._look_at(guest)
        self._count()
        self._look_at_freeze()
        self.read_logs()
        self._weigh("controller", self.scene.stage.controller)
        self._weigh("agent", self.scene.node.agent)

    def _look_at(self, guest: Guest) -> None:
        state = ""
        with suppress(libvirt.libvirtError):
            state = guest.state()
        wrong = state if state in ("paused", "off") and not guest.touched.locked() else ""
        self._lasting("VM does not run", guest.name, wrong, PAUSED_SECONDS)

    def _count(self) -> None:
        counter = self.scene.counter
        number = None if counter.touched.locked() else counter.number()
        if number is None:
            self._since.pop(("the guest stands still", counter.name), None)
            return
        if number < self.number:
            self.record.violation("writes of the guest are lost", counter.name, f"{self.number} -> {number}")
        still = f"at {number}" if number == self.number else ""
        self.number = number
        self._lasting("the guest stands still", counter.name, still, STILL_SECONDS)

    def _look_at_freeze(self) -> None:
        counter = self.scene.counter
        # An agent that is down thaws when it is back.
        frozen = self.scene.node.agent.runs and not counter.touched.locked() and counter.frozen()
        self._lasting("the guest is frozen", counter.name, "frozen" if frozen else "", FROZEN_SECONDS)

    def _lasting(self, kind: str, subject: str, wrong: str, seconds: float) -> None:
        if not wrong:
            self._since.pop((kind, subject), None)
            return
        since = self._since.setdefault((kind, subject), time.monotonic())
        if time.monotonic() - since > seconds:
            self.record.violation(kind, subject, f"{wrong} for {time.monotonic() - since:.0f} s")

    def read_logs(self) -> None:
        """Look for faults of ours in what the programs have said since the last look."""
        for log in [*sorted(self.scene.node.agent.log.parent.glob("*.log")), self.scene.stage.controller.log]:
            for line in self._fresh(log):
                if "Traceback (most recent call last)" in line or "unforeseen fault" in line:
                    self.record.violation("fault of ours in a log", log.name, line)
        for log in sorted((self.scene.host.directory / "log" / "qemu").glob("*.log")):
            for line in self._fresh(log):
                if re.search(r"write failed|I/O error|Failed to get .* lock", line):
                    self.record.violation("QEMU complained", log.name, line)

    def _fresh(self, log: Path) -> list[str]:
        if not log.exists():
            return []
        with log.open("rb") as stream:
            stream.seek(self._read.get(log, 0))
            text = stream.read()
        end = text.rfind(b"\n") + 1
        self._read[log] = self._read.get(log, 0) + end
        return text[:end].decode(errors="replace").splitlines()

    def _weigh(self, name: str, program: Program) -> None:
        with suppress(OSError, AssertionError):
            found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid(program)}/status").read_text())
            if found:
                rss_bytes = int(found[1]) << 10
                if len(self.rss_bytes.get(name, ())) % SAID_LOOKS == 0:
                    self.record.say(f"{name} uses {rss_bytes >> 20} MiB")
                self.rss_bytes.setdefault(name, []).append(rss_bytes)
                if rss_bytes > RSS_BYTES_MAX:
                    self.record.violation("memory", name, f"{rss_bytes >> 20} MiB")
