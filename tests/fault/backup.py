"""The VMBackup of a cell: applied, looked at, let go, and all that is known of it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt

from fault.machine import NAMESPACE, SHORT_NAME, patiently
from fault.stage import PLAIN, SMALL, Stage
from fault.watch import Watch
from integration.libvirt.machines import Portrait
from vmbackup.api import names
from vmbackup.cluster.resources import EVENT, VMBACKUP

END_SECONDS = 150.0
# Both disks copy at a few MiB in a second or two: long enough to be hit, short enough to be repeated.
COPY_BYTES_PER_SECOND = "160Mi"
Body = dict[str, Any]


class Backup:
    """`method` and `phase` are the row, `fault` is the column. One that was not met in time is followed by another."""

    def __init__(self, stage: Stage, method: str, phase: str, fault: str) -> None:
        self.stage, self.method, self.phase, self.fault = stage, method, phase, fault
        self.machine = stage.machine
        self.location = PLAIN
        self.name = ""
        self.uid = ""
        self.number = 0
        self.qemu_may_change = False
        self.guest_writes_may_fail = False
        self.watch: Watch | None = None

    def begin(self, location: str = "", **spec: Any) -> None:
        """Apply a VMBackup; keywords are fields of its spec. A push to be met in Copying goes to a slow location."""
        location = location or (SMALL if (self.method, self.phase) == ("Push", "Copying") else PLAIN)
        self.number += 1
        self.location = location
        self.name = f"{self.method}-{self.phase}-{self.fault}-{self.number}".lower()
        self.before = self.machine.portrait()
        self.numbers_before = self.machine.numbers()
        self.failed_before = self.machine.writes()[1]
        full = {"source": {"name": SHORT_NAME}, "location": location, "method": self.method, **spec}
        if self.method == "Snapshot" and self.phase == "Copying":
            full.setdefault("maxBytesPerSecond", COPY_BYTES_PER_SECOND)
        if (self.method, self.phase) == ("Push", "Copying"):
            full.setdefault("maxBytesPerSecond", "1Mi")  # a second brake, beside hold_push()
        metadata = {"name": self.name, "namespace": NAMESPACE}
        body = {"apiVersion": names.API_VERSION, "kind": "VMBackup", "metadata": metadata, "spec": full}
        self.uid = self.stage.client.create(VMBACKUP.collection(NAMESPACE), body)["metadata"]["uid"]
        sets = self.stage.directory(location) / NAMESPACE / SHORT_NAME
        self.watch = Watch(self.stage.resources, NAMESPACE, self.name, (sets, self.machine.disks))

    def delete(self) -> None:
        self.stage.client.call("DELETE", VMBACKUP.path(self.name, NAMESPACE))

    def record(self) -> Body:
        """Return the journal's record of the backup, empty when there is none."""
        return dict(json.loads(self.record_bytes() or b"{}"))

    def record_bytes(self) -> bytes:
        """Return the record as it is on disk; empty when there is none."""
        try:
            return (self.stage.state / "runs" / f"{self.uid}.json").read_bytes()
        except FileNotFoundError:
            return b""

    def body(self) -> Body:
        return self.stage.resources.get(VMBACKUP, self.name, NAMESPACE)

    def is_over(self) -> bool:
        return bool(self.body().get("status", {}).get("phase") == "Done")

    def until_over(self, seconds: float = END_SECONDS) -> Body:
        """Return the VMBackup when its end is told."""
        body = patiently(self.go_on_to_the_end, seconds)
        assert body, f"not over after {seconds:.0f} s\n{self.all_that_is_known()}"
        return dict(body)

    def go_on_to_the_end(self) -> Body | None:
        body = self.body()
        if body.get("status", {}).get("phase") == "Done":
            return body
        if self.method == "Push":
            self.machine.let_push_go()  # a new attempt is not held any more
        return None

    def end_watch(self) -> None:
        if self.watch is not None:
            self.watch.stop()

    # -- a held push job ------------------------------------------------------------------------------------------

    def let_push_go(self) -> None:
        """Let a held push job go at full speed."""
        if self.method == "Push":
            patiently(lambda: self.machine.let_push_go() or True, 5.0)

    def let_job_end_soon(self) -> None:
        """Let a held push job go at a speed at which it ends in a few seconds."""
        if self.method == "Push":
            self.machine.let_push_end_soon()

    def let_push_fail(self) -> None:
        """Let a held push job go, and return when it has ended."""
        self.let_push_go()
        assert patiently(lambda: not self.machine.portrait().jobs, 30), "the job does not end"

    # -- what is seen of it ---------------------------------------------------------------------------------------

    def is_as_before(self, seen: Portrait) -> bool:
        before = self.before
        return (seen.live, seen.inactive, seen.jobs, seen.state) == (before.live, before.inactive, {}, before.state)

    def overlays(self) -> list[Path]:
        return sorted(self.machine.disks.glob(".vmbackup.*.overlay"))

    def unfinished_images(self) -> list[Path]:
        return list(self.top.rglob(".*.partial/vd*"))

    @property
    def top(self) -> Path:
        return self.stage.directory(self.location)

    def sets(self) -> list[Path]:
        """Return the published sets of this cell's backup."""
        found = [path.parent for path in self.top.rglob("manifest.json") if "/." not in str(path)]
        return [path for path in found if json.loads((path / "manifest.json").read_text())["backupUid"] == self.uid]

    def has_said(self, pattern: str) -> bool:
        assert self.watch is not None
        return any(re.search(pattern, words) for words in list(self.watch.said))

    def events(self) -> Iterator[str]:
        for event in self.stage.client.list(EVENT.collection(NAMESPACE)):
            if event.get("regarding", {}).get("uid") == self.uid:
                yield f"Event: {event['reason']}: {event.get('note', '')}"

    def all_that_is_known(self) -> str:
        def try_to(look: Callable[[], object]) -> str:
            try:
                return str(look())
            except (Exception, libvirt.libvirtError) as error:  # whatever it is, the rest is told
                return f"unknown: {error!r}"

        parts = (
            lambda: json.dumps(self.body().get("status"), indent=1),
            lambda: json.dumps({k: v for k, v in self.record().items() if k != "spec"}, indent=1),
            self.machine.portrait,
            lambda: "\n".join(self.watch.said) if self.watch else "",
            self.stage.logs,
        )
        return "\n----\n".join(try_to(part) for part in parts)
