"""One cell of the matrix: a backup, a fault in one of its phases, and what must hold afterwards."""

import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from fault.machine import NAMESPACE, SHORT_NAME, digest, patiently
from fault.stage import PLAIN, SMALL, Stage
from fault.watch import Watch
from integration.libvirt.machines import Portrait
from testbed.images import qemu_img, sequence_numbers
from vmbackup.api import names
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import EVENT, VMBACKUP

HOME_SECONDS = 60.0
END_SECONDS = 150.0
CATCHES_MAX = 8
FROZEN_MILLISECONDS_MAX = 10_000
# Both disks copy at a few MiB in a second or two: long enough to be hit, short enough to be repeated.
COPY_BYTES_PER_SECOND = "160Mi"
SETTLE_SECONDS = 40.0  # an agent that tells an end tries again after at most 30 s
LEAD_SECONDS = 45.0  # a controller that was started again waits 15 s for the Lease of the one before
Body = dict[str, Any]
FROZEN = ("Intended", "Frozen")
# In these phases the moment that counts is when the intent is on disk and the act is about to be done, or being done.
INTENDED: dict[str, Callable[[Body], object]] = {
    "Freezing": lambda record: record["freeze"] == "Intended",
    "Starting": lambda record: record["began"],
    "Snapshotting": lambda record: record["began"],
    "Copying": lambda record: record["freeze"] not in FROZEN,  # the thaw belongs to the phase before
    "Committing": lambda record: any(disk["commits"] for disk in record["disks"]),
    "Pivoting": lambda record: any(disk["pivotInstance"] for disk in record["disks"]),
}


@dataclass(frozen=True)
class Result:
    """What is told of a cell."""

    outcome: str
    reason: str
    attempts: int
    recovery_seconds: float | None
    said: str
    catches: int  # backups that it took to meet the phase


class Cell:
    """`method` and `phase` are the row, `fault` is the column. Times are monotonic seconds."""

    def __init__(self, stage: Stage, method: str, phase: str, fault: str) -> None:
        self.stage, self.method, self.phase, self.fault = stage, method, phase, fault
        self.machine = stage.machine
        self.location = PLAIN
        self.name = ""
        self.uid = ""
        self.recovery_seconds: float | None = None
        self.result: Result | None = None
        self.whole = False
        self._number = 0
        self._fault_over_at: float | None = None
        self._watch: Watch | None = None
        self.qemu_may_change = False
        self.guest_writes_may_fail = False
        self.spoils = False  # the VM is not as it was, and is not meant to be

    # -- the backup ---------------------------------------------------------------------------------------------

    def begin(self, location: str = "", **spec: Any) -> None:
        """Apply a VMBackup; keywords are fields of its spec. A push to be met in Copying goes to a slow location."""
        location = location or (SMALL if (self.method, self.phase) == ("Push", "Copying") else PLAIN)
        self._number += 1
        self.location = location
        self.name = f"{self.method}-{self.phase}-{self.fault}-{self._number}".lower()
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
        self._watch = Watch(self.stage.resources, NAMESPACE, self.name, (sets, self.machine.disks))

    def catch(self, location: str = "", when: "Look | None" = None, once: "Look | None" = None, **spec: Any) -> None:
        """Apply a VMBackup and stop the agent in the cell's phase; one that was too fast is let go, and tried again.

        A push job in Copying is held, so that the fault meets it. `once` is waited for in the phase, while the agent
        still works; `when` looks once more, at the stopped agent.
        """
        for _ in range(CATCHES_MAX):
            self.begin(location, **spec)
            if self._hold_in_phase(once or _at_once) and (when is None or when(self)):
                return
            self._let_pass()
        raise AssertionError(f"phase {self.phase} was too short {CATCHES_MAX} times")

    def catch_frozen(self) -> None:
        """Apply a VMBackup and stop the agent when its guest is frozen and the point in time is still to come."""
        for _ in range(CATCHES_MAX):
            self.begin()
            while self.record().get("freeze") != "Frozen" and not self._is_over():
                time.sleep(0.001)
            self.stage.agent.hold()
            record = self.record()
            if record.get("freeze") == "Frozen" and not record["began"]:
                return
            self._let_pass()
        raise AssertionError(f"the guest was frozen too shortly {CATCHES_MAX} times")

    def _let_pass(self) -> None:
        """Let a backup that was not met in time come to its good end."""
        self.stage.agent.go_on()
        self._let_go()
        self.until_over()
        assert self.body()["status"]["outcome"] == "Succeeded", self.all_that_is_known()
        self._end_watch()
        self.stage.mend(spoiled=False)

    def _hold_in_phase(self, once: "Look") -> bool:
        wanted = self.phase
        deadline = time.monotonic() + END_SECONDS
        held = False
        while not (self._in_phase(record := self.record()) and once(self)):
            if not held and (self.method, wanted, record.get("began")) == ("Push", "Copying", True):
                held = self.machine.hold_push()
            if record.get("phase") in ("Discarding", "Done") or (not record and self._is_over()):
                return False
            assert time.monotonic() < deadline, self.all_that_is_known()
            time.sleep(0.001)
        self.stage.agent.hold()
        runs = (self.method, wanted) != ("Push", "Copying") or bool(self.machine.portrait().jobs)
        return runs and self._in_phase(self.record())

    def _in_phase(self, record: Body) -> bool:
        intended = INTENDED.get(self.phase)
        return record.get("phase") == self.phase and (intended is None or bool(intended(record)))

    def record(self) -> Body:
        """Return the journal's record of the backup, empty when there is none."""
        return dict(json.loads(self.record_bytes() or b"{}"))

    def kill_child(self, program: str) -> None:
        """Apply a VMBackup and kill the first such child of the agent in the cell's phase, which may be a short one."""
        for _ in range(CATCHES_MAX):
            self.begin()
            while not self._is_over():
                children = self.stage.agent.children(program) if self.record().get("phase") == self.phase else []
                for child in children:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                        return
            self.until_over()
            self._end_watch()
            self.stage.mend(spoiled=False)
        raise AssertionError(f"no {program} was met in {self.phase} {CATCHES_MAX} times")

    def record_bytes(self) -> bytes:
        """Return the record as it is on disk; empty when there is none."""
        try:
            return (self.stage.state / "runs" / f"{self.uid}.json").read_bytes()
        except FileNotFoundError:
            return b""

    def body(self) -> Body:
        return self.stage.resources.get(VMBACKUP, self.name, NAMESPACE)

    def _is_over(self) -> bool:
        return bool(self.body().get("status", {}).get("phase") == "Done")

    def _let_go(self) -> None:
        if self.method == "Push":
            patiently(lambda: self.machine.let_push_go() or True, 5.0)

    def let_job_end_soon(self) -> None:
        """Let a held push job go at a speed at which it ends in a few seconds."""
        if self.method == "Push":
            self.machine.let_push_end_soon()

    def let_push_go(self) -> None:
        """Let a held push job go at full speed."""
        self._let_go()

    def let_push_fail(self) -> None:
        """Let a held push job go, and return when it has ended."""
        self._let_go()
        assert patiently(lambda: not self.machine.portrait().jobs, 30), "the job does not end"

    def delete(self) -> None:
        self.stage.client.call("DELETE", VMBACKUP.path(self.name, NAMESPACE))

    def vm_comes_back(self) -> None:
        """Start the VM as its owner does; from here on the product is on its own."""
        self.qemu_may_change = True
        self.machine.start_again()
        self.fault_is_over()

    # -- what comes after the fault -------------------------------------------------------------------------------

    def fault_is_over(self) -> None:
        """Note that from here on the product is on its own."""
        self._fault_over_at = time.monotonic()

    def until_home(self, seconds: float = HOME_SECONDS) -> None:
        """Return when the VM is on its disks again with nothing of ours on it; fail after the bound."""
        assert self._fault_over_at is not None
        self._let_go()
        left = self._fault_over_at + seconds - time.monotonic()
        assert patiently(self._is_home, left), f"not home after {seconds:.0f} s\n{self.all_that_is_known()}"
        self.recovery_seconds = round(time.monotonic() - self._fault_over_at, 1)

    def _is_home(self) -> bool:
        seen = self.machine.portrait()
        self.machine.let_push_go() if self.method == "Push" else None
        return self._same(seen)

    def _same(self, seen: Portrait) -> bool:
        before = self.before
        return (seen.live, seen.inactive, seen.jobs, seen.state) == (before.live, before.inactive, {}, before.state)

    def until_over(self, seconds: float = END_SECONDS) -> Body:
        """Return the VMBackup when its end is told."""
        body = patiently(self._go_on_to_the_end, seconds)
        assert body, f"not over after {seconds:.0f} s\n{self.all_that_is_known()}"
        return dict(body)

    def _go_on_to_the_end(self) -> Body | None:
        body = self.body()
        if body.get("status", {}).get("phase") == "Done":
            return body
        if self.method == "Push":
            self.machine.let_push_go()  # a new attempt is not held any more
        return None

    def ends(
        self,
        outcome: str | tuple[str, ...] = "Succeeded",
        *,
        says: str = "",
        reason: str = "",
        attempts: int | None = None,
    ) -> None:
        """Wait for the end, and assert all that must hold in every cell.

        says: a pattern that a condition or an Event must have matched at some time: the fault in words.
        """
        body = self.until_over()
        assert self._watch is not None
        self._watch.hear(body)
        status = body["status"]
        self._settle(body)
        told = [*self._watch.said, *self._events()]
        matched = [words for words in told if re.search(says, words)] if says else []
        succeeded = next(each for each in status["conditions"] if each["type"] == "Succeeded")
        self.result = Result(
            outcome=status["outcome"],
            reason=succeeded["reason"],
            attempts=status.get("attempt", 0),
            recovery_seconds=self.recovery_seconds,
            said=(matched[0] if matched else succeeded.get("message", ""))[:300],
            catches=self._number,
        )
        assert status["outcome"] in ((outcome,) if isinstance(outcome, str) else outcome), self.all_that_is_known()
        assert not says or matched, f"nobody said {says!r}:\n" + "\n".join(told)
        assert not reason or succeeded["reason"] == reason, succeeded
        assert attempts is None or status["attempt"] == attempts, status
        self._assert_vm_as_before()
        self._assert_nothing_left()
        self._assert_sets(1 if status["outcome"] == "Succeeded" else 0, status.get("set"))
        self.whole = True

    def vanishes(self, sets_at_most: int = 0) -> None:
        """Wait until the deleted VMBackup is gone, and assert all that must hold."""
        gone = patiently(self._let_vanish, END_SECONDS)
        assert gone, f"the deleted VMBackup stays\n{self.all_that_is_known()}"
        self._settle({"metadata": {}})
        self._assert_vm_as_before()
        self._assert_nothing_left()
        found = self.sets()
        assert len(found) <= sets_at_most, found
        for path in found:
            self.assert_good(path)
        words = "published all the same" if found else "nothing published"
        self.result = Result(
            "Gone", "Deleted", 1, self.recovery_seconds, f"the resource is gone, {words}", self._number
        )
        self.whole = True

    def _let_vanish(self) -> bool:
        try:
            self._go_on_to_the_end()
        except NotFound:
            return True
        return False

    def _settle(self, body: Body) -> None:
        """Wait for what comes shortly after the told end: the journal is emptied, the finalizer goes."""
        forgotten = patiently(lambda: not list((self.stage.state / "runs").glob("*.json")), SETTLE_SECONDS)
        assert forgotten, f"the journal is not empty\n{self.all_that_is_known()}"
        assert patiently(lambda: not self._finalizers(), LEAD_SECONDS), f"the finalizer stays: {body['metadata']}"
        self._end_watch()

    def _finalizers(self) -> list[str]:
        try:
            return list(self.body()["metadata"].get("finalizers", ()))
        except NotFound:
            return []

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()

    def strands(self, overlays: list[Path], *, named: str = "", vm_runs: bool = True) -> None:
        """Wait for the end that leaves the decision to a human: nothing is merged or removed, and it is told where."""
        self.spoils = True
        body = self.until_over()
        assert self._watch is not None
        self._watch.hear(body)
        self._end_watch()
        status = body["status"]
        succeeded = next(each for each in status["conditions"] if each["type"] == "Succeeded")
        said = succeeded["message"]
        self.result = Result(
            status["outcome"], succeeded["reason"], status.get("attempt", 0), None, said[:300], self._number
        )
        assert (status["outcome"], succeeded["reason"]) == ("Stranded", "OverlayOrphaned"), self.all_that_is_known()
        assert (named or overlays[0].name) in said
        assert all(path.exists() for path in overlays), "an overlay that a human needs was removed"
        assert digest(self.machine.golden) == self.machine.golden_digest
        if vm_runs:
            done = self.machine.writes()[0]
            assert patiently(lambda: self.machine.writes()[0] > done, 30), "the guest does not write any more"
        code, findings = self.stage.inspect()
        assert code == 1, findings
        explained = [finding for finding in findings if overlays[0].name in finding["what"]]
        assert explained, f"inspect does not speak of {overlays[0].name}: {findings}"
        assert explained[0]["advice"]

    def ends_without_vm(self) -> None:
        """Wait for the end when the VM is gone for good."""
        self.spoils = True
        body = self.until_over()
        status = body["status"]
        succeeded = next(each for each in status["conditions"] if each["type"] == "Succeeded")
        self.result = Result(
            status["outcome"], succeeded["reason"], status["attempt"], None, succeeded["message"][:300], self._number
        )
        assert status["outcome"] == "Failed"
        self._settle(body)
        assert not self.sets()
        assert not [*self._top.rglob(".*.partial")]

    def becomes_transient(self) -> None:
        """Expect no definition from now on."""
        self.spoils = True
        self.before = replace(self.before, inactive={})

    def overlays(self) -> list[Path]:
        return sorted(self.machine.disks.glob(".vmbackup.*.overlay"))

    def unfinished_images(self) -> list[Path]:
        return list(self._top.rglob(".*.partial/vd*"))

    def has_said(self, pattern: str) -> bool:
        assert self._watch is not None
        return any(re.search(pattern, words) for words in list(self._watch.said))

    # -- what must hold -------------------------------------------------------------------------------------------

    def _assert_vm_as_before(self) -> None:
        seen = self.machine.portrait()
        assert self._same(seen), f"not as before: {seen} instead of {self.before}"
        if not self.qemu_may_change:
            assert seen.qemu_pid == self.before.qemu_pid
        if seen.state != "running":
            return
        done = self.machine.writes()[0]
        assert patiently(lambda: self.machine.writes()[0] > done, 30), "the guest does not write any more"
        failed = self.machine.writes()[1] - (0 if seen.qemu_pid != self.before.qemu_pid else self.failed_before)
        if not self.guest_writes_may_fail:
            assert not failed, f"{failed} writes of the guest failed"
            assert not self.machine.trouble(), self.machine.trouble()
        if self.machine.agent_answers():
            assert not self.machine.frozen(), "the guest is frozen"

    def _assert_nothing_left(self) -> None:
        left = [*self.machine.disks.glob(".vmbackup.*.overlay"), *self._top.rglob(".*.partial")]
        assert not left, f"left behind: {left}"
        assert digest(self.machine.golden) == self.machine.golden_digest, "the golden image was written to"
        assert self.machine.foreign.read_text() == "not ours\n"
        assert (self.stage.directory(PLAIN) / "foreign.txt").read_text() == "not ours\n"
        assert {path: digest(Path(path)) for path in self.stage.old_set} == self.stage.old_set, "an old set was touched"
        assert self._watch is not None
        assert not self._watch.used_again, f"names used again: {self._watch.used_again}"
        with (self.stage.state / "locks" / f"{self.machine.vm.uuid}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when somebody holds it

    @property
    def _top(self) -> Path:
        return self.stage.directory(self.location)

    def sets(self) -> list[Path]:
        """Return the published sets of this cell's backup."""
        found = [path.parent for path in self._top.rglob("manifest.json") if "/." not in str(path)]
        return [path for path in found if json.loads((path / "manifest.json").read_text())["backupUid"] == self.uid]

    def _assert_sets(self, count: int, told: str | None) -> None:
        found = self.sets()
        assert len(found) == count, f"{len(found)} sets instead of {count}: {found}"
        for path in found:
            assert str(path) == f"{self._top}/{told}"
            self.assert_good(path)

    def assert_good(self, path: Path) -> None:
        """Open, check, and see that both disks are of one moment, between the beginning and now."""
        for disk in json.loads((path / "manifest.json").read_text())["disks"]:
            if disk["format"] == "qcow2":
                qemu_img("check", "-q", "-f", "qcow2", str(path / disk["file"]))
        a, b = sequence_numbers(next(path.glob("vda.*")), next(path.glob("vdb.*")))
        assert b <= a <= b + 1, f"two moments in one set: {a} on vda, {b} on vdb"
        assert self.numbers_before[0] <= a, f"{a} is older than the backup, which began at {self.numbers_before[0]}"
        if (now := self.machine.numbers()[0]) > 0:
            assert a <= now, f"{a} was never written, the guest is at {now}"

    # -- telling --------------------------------------------------------------------------------------------------

    def _events(self) -> Iterator[str]:
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
            lambda: "\n".join(self._watch.said) if self._watch else "",
            self.stage.logs,
        )
        return "\n----\n".join(try_to(part) for part in parts)

    def told(self) -> Body:
        """Return the result as it may be published: without the paths of this machine."""
        if self.result is None:
            return {}
        return asdict(replace(self.result, said=self.result.said.replace(str(self.stage.place), "")))

    def close(self) -> None:
        self._end_watch()


Look = Callable[[Cell], bool]


def _at_once(_: Cell) -> bool:
    return True
