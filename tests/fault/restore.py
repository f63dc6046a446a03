"""The VMRestore of a cell: applied, met in its phase, looked at, and all that is known of it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt

from fault.box import SHORT_NAME, Box
from fault.machine import NAMESPACE, digest, patiently
from fault.rows import TARGETS
from fault.stage import PLAIN, Stage
from fault.watch import Watch
from vmbackup.api import names
from vmbackup.api.restore import RestoreKind
from vmbackup.cluster.resources import EVENT, VMRESTORE

END_SECONDS = 150.0
CATCHES_MAX = 8
# Seconds for a few MiB: long enough to be hit.
COPY_BYTES_PER_SECOND = "3Mi"
Body = dict[str, Any]


class Restore:
    """`kind` and `phase` are the row, `fault` is the column. One that was not met in time is followed by another."""

    def __init__(self, stage: Stage, box: Box, kind: str, phase: str, fault: str) -> None:
        self.stage, self.box = stage, box
        self.method, self.phase, self.fault = kind, phase, fault
        self.kind = RestoreKind(kind)
        self.name = self.uid = ""
        self.number = 0
        self.expected: dict[str, Path] = {}  # what the images must show, by target, when it is not the set
        self.watch: Watch | None = None

    def begin(self, source: Body | None = None, **spec: Any) -> None:
        """Apply a VMRestore of the VM's newest set."""
        self.number += 1
        self.name = f"{self.kind}-{self.phase}-{self.fault}-{self.number}".lower()
        self.before_files, self.before_domains = self.box.files(), self.box.domains()
        self.before_sets = self.set_files()
        full = {"source": source or {"set": {"location": PLAIN, "vm": SHORT_NAME}}, "target": TARGETS[self.kind]}
        if self.phase in ("Copying", "Pulling"):
            full["maxBytesPerSecond"] = COPY_BYTES_PER_SECOND
        body = {
            "apiVersion": names.API_VERSION,
            "kind": VMRESTORE.name,
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": full | spec,
        }
        self.uid = self.stage.client.create(VMRESTORE.collection(NAMESPACE), body)["metadata"]["uid"]
        self.watch = Watch(self.stage.resources, NAMESPACE, self.name, (), VMRESTORE)

    def catch(self, when: Callable[[Body], object] = bool, **spec: Any) -> None:
        """Apply a VMRestore and stop the agent in the cell's phase; one that was too fast is undone, and tried again.

        when: what must hold of its record, too.
        """
        for _ in range(CATCHES_MAX):
            self.begin(**spec)
            if self.hold_in(self.phase, when):
                return
            self.stage.agent.go_on()
            self.until_over()
            self.end_watch()
            self.box.make_whole()
        raise AssertionError(f"phase {self.phase} was too short {CATCHES_MAX} times")

    def hold_in(self, phase: str, when: Callable[[Body], object] = bool) -> bool:
        """Stop the agent as soon as the restore is in a phase; return whether it still was."""
        deadline = time.monotonic() + END_SECONDS
        while not ((record := self.record()).get("phase") == phase and when(record)):
            if record.get("phase") == "Done" or (not record and self.is_over()):
                return False
            assert time.monotonic() < deadline, self.all_that_is_known()
            time.sleep(0.001)
        self.stage.agent.hold()
        return self.record().get("phase") == phase and bool(when(self.record()))

    def set_stays_until_over(self) -> None:
        """Return when the restore is over; its set must be whole until it is tidied up."""
        files = {path for path in self.before_sets if path.startswith(str(self.box.set))}
        deadline = time.monotonic() + END_SECONDS
        while not self.is_over():
            seen = {str(path) for path in self.box.set.rglob("*")}
            if self.record().get("phase") == self.phase:  # after we have looked: it was in use
                assert files <= seen, "the set was removed under the restore"
            assert time.monotonic() < deadline, self.all_that_is_known()
            time.sleep(0.2)

    def forget_set(self) -> None:
        """Expect the set no more; it showed the VM as it is now."""
        self.expected = {path.name.partition(".")[0]: path for path in self.box.kept.iterdir()}
        self.before_sets = {
            path: seen for path, seen in self.before_sets.items() if not path.startswith(str(self.box.set))
        }

    def is_half_placed(self, record: Body) -> bool:
        """In place: return whether the first disk has its new image and the last one has not."""
        images = [Path(disk["file"]) for disk in record["disks"]]
        new = [image.with_name(f".{image.name}.restore.{self.uid}").exists() for image in images]
        return not new[0] and new[-1]

    def delete(self) -> None:
        self.stage.client.call("DELETE", VMRESTORE.path(self.name, NAMESPACE))

    def cancel(self) -> None:
        self.stage.client.patch(VMRESTORE.path(self.name, NAMESPACE), {"spec": {"cancel": True}})

    def record(self) -> Body:
        """Return the journal's record of the restore, empty when there is none."""
        try:
            return dict(json.loads((self.stage.state / "restores" / f"{self.uid}.json").read_bytes()))
        except FileNotFoundError:
            return {}

    def body(self) -> Body:
        return self.stage.resources.get(VMRESTORE, self.name, NAMESPACE)

    def is_over(self) -> bool:
        return bool(self.body().get("status", {}).get("phase") == "Done")

    def until_over(self, seconds: float = END_SECONDS) -> Body:
        """Return the VMRestore when its end is told."""
        assert patiently(self.is_over, seconds), f"not over after {seconds:.0f} s\n{self.all_that_is_known()}"
        return self.body()

    def end_watch(self) -> None:
        if self.watch is not None:
            self.watch.stop()

    def set_files(self) -> dict[str, str]:
        """Return digest, owner and mode of all files of all sets of the VM; also what is hidden there."""
        directory = self.stage.directory(PLAIN) / NAMESPACE / SHORT_NAME
        return {str(path): _portrait(path) for path in directory.rglob("*") if path.is_file()}

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
            lambda: "\n".join(self.watch.said) if self.watch else "",
            lambda: "\n".join(self.box.files()),
            self.stage.logs,
        )
        return "\n----\n".join(try_to(part) for part in parts)


def _portrait(path: Path) -> str:
    seen = path.stat()
    return f"{digest(path)} {seen.st_uid}:{seen.st_gid} {seen.st_mode:o}"
