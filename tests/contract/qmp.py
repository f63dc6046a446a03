"""QEMU without libvirt between: a second monitor of the VM, to hold jobs and to look while the daemon is dead."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree

DEADLINE_SECONDS = 60
SLOW_BYTES_PER_SECOND = 65536
SETTLED_SECONDS = 0.1  # many times what QEMU needs for the chunks that it had begun


class Qmp:
    """A monitor of QEMU's that is not libvirt's: it works while the daemon is dead, and before libvirt looks."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> Any:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                return answer.get("return", [])

    def limit_jobs(self, bytes_per_second: int) -> int:
        jobs = self.ask("query-block-jobs")
        for job in jobs:
            self.ask("block-job-set-speed", device=job["device"], speed=bytes_per_second)
        return len(jobs)

    @contextlib.contextmanager
    def slowing(self) -> Iterator[None]:
        """Slow down every job that begins meanwhile, from its first moment on."""
        begun = threading.Event()

        def slow() -> None:
            while not begun.is_set():
                self.limit_jobs(SLOW_BYTES_PER_SECOND)
                time.sleep(0.001)

        thread = threading.Thread(target=slow)
        thread.start()
        try:
            yield
        finally:
            begun.set()
            thread.join()
            self.limit_jobs(SLOW_BYTES_PER_SECOND)

    def has_settled(self, count: int) -> bool:
        """Wait until what was under way when the limit came is written; return whether enough jobs are left."""
        offsets: list[int] = []
        while True:
            jobs = self.ask("query-block-jobs")
            before, offsets = offsets, [job["offset"] for job in jobs]
            if not jobs or offsets == before:
                return sum(job["offset"] < job["len"] for job in jobs) >= count
            time.sleep(SETTLED_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()


def with_monitor(xml: str, path: Path) -> str:
    """Add a second monitor to a domain."""
    name = "http://libvirt.org/schemas/domain/qemu/1.0"
    root = ElementTree.fromstring(xml)  # noqa: S314 - our own XML
    command_line = ElementTree.SubElement(root, f"{{{name}}}commandline")
    for value in ("-qmp", f"unix:{path},server=on,wait=off"):
        ElementTree.SubElement(command_line, f"{{{name}}}arg", value=value)
    return ElementTree.tostring(root, encoding="unicode")
