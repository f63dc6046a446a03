"""One cell of the matrix: a backup, a fault in one of its phases, and how it must end."""

import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fault.aftermath import assert_good, assert_guest_writes, assert_nothing_left, assert_sets, assert_vm_as_before
from fault.backup import END_SECONDS, Body
from fault.machine import digest, patiently
from fault.meeting import Meeting
from fault.stage import Stage
from vmbackup.cluster.errors import NotFound

HOME_SECONDS = 60.0
SETTLE_SECONDS = 40.0  # an agent that tells an end tries again after at most 30 s
LOST = "libvirt has lost it.*Do not kill QEMU before"  # rarely, libvirt 9.0 that is killed while it pivots
LEAD_SECONDS = 45.0  # a controller that was started again waits 15 s for the Lease of the one before


@dataclass(frozen=True)
class Result:
    """What is told of a cell."""

    outcome: str
    reason: str
    attempts: int
    recovery_seconds: float | None
    said: str
    catches: int  # backups that it took to meet the phase


class Cell(Meeting):
    """What comes after the fault. Times are monotonic seconds."""

    def __init__(self, stage: Stage, method: str, phase: str, fault: str) -> None:
        super().__init__(stage, method, phase, fault)
        self.recovery_seconds: float | None = None
        self.result: Result | None = None
        self.whole = False
        self.spoils = False  # the VM is not as it was, and is not meant to be
        self._fault_over_at: float | None = None

    def vm_comes_back(self) -> None:
        """Start the VM as its owner does; from here on the product is on its own."""
        self.qemu_may_change = True
        self.machine.start_again()
        self.fault_is_over()

    def becomes_transient(self) -> None:
        """Expect no definition from now on."""
        self.spoils = True
        self.before = replace(self.before, inactive={})

    def fault_is_over(self) -> None:
        """Note that from here on the product is on its own."""
        self._fault_over_at = time.monotonic()

    def until_home(self, seconds: float = HOME_SECONDS) -> None:
        """Return when the VM is on its disks again with nothing of ours on it; fail after the bound."""
        assert self._fault_over_at is not None
        self.let_push_go()
        left = self._fault_over_at + seconds - time.monotonic()
        assert patiently(self._is_home, left), f"not home after {seconds:.0f} s\n{self.all_that_is_known()}"
        self.recovery_seconds = round(time.monotonic() - self._fault_over_at, 1)

    def _is_home(self) -> bool:
        if self.has_said(LOST) and self.machine.is_lost():
            self.machine.bring_back()
            self.vm_comes_back()
        seen = self.machine.portrait()
        self.machine.let_push_go() if self.method == "Push" else None
        return self.is_as_before(seen)

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
        assert self.watch is not None
        self.watch.hear(body)
        status = body["status"]
        self._settle(body)
        told = [*self.watch.said, *self.events()]
        matched = [words for words in told if re.search(says, words)] if says else []
        succeeded = self._note_result(status, matched[0] if matched else "")
        assert status["outcome"] in ((outcome,) if isinstance(outcome, str) else outcome), self.all_that_is_known()
        assert not says or matched, f"nobody said {says!r}:\n" + "\n".join(told)
        assert not reason or succeeded["reason"] == reason, succeeded
        assert attempts is None or status["attempt"] == attempts, status
        assert_vm_as_before(self)
        assert_nothing_left(self)
        assert_sets(self, 1 if status["outcome"] == "Succeeded" else 0, status.get("set"))
        self.whole = True

    def vanishes(self, sets_at_most: int = 0) -> None:
        """Wait until the deleted VMBackup is gone, and assert all that must hold."""
        gone = patiently(self._let_vanish, END_SECONDS)
        assert gone, f"the deleted VMBackup stays\n{self.all_that_is_known()}"
        self._settle({"metadata": {}})
        assert_vm_as_before(self)
        assert_nothing_left(self)
        found = self.sets()
        assert len(found) <= sets_at_most, found
        for path in found:
            assert_good(self, path)
        words = "published all the same" if found else "nothing published"
        self.result = Result("Gone", "Deleted", 1, self.recovery_seconds, f"the resource is gone, {words}", self.number)
        self.whole = True

    def _let_vanish(self) -> bool:
        try:
            self.go_on_to_the_end()
        except NotFound:
            return True
        return False

    def strands(self, overlays: list[Path], *, named: str = "", vm_runs: bool = True) -> None:
        """Wait for the end that leaves the decision to a human: nothing is merged or removed, and it is told where."""
        self.spoils = True
        body = self.until_over()
        assert self.watch is not None
        self.watch.hear(body)
        self.end_watch()
        status = body["status"]
        succeeded = self._note_result(status)
        assert (status["outcome"], succeeded["reason"]) == ("Stranded", "OverlayOrphaned"), self.all_that_is_known()
        assert (named or overlays[0].name) in succeeded["message"]
        assert all(path.exists() for path in overlays), "an overlay that a human needs was removed"
        assert digest(self.machine.golden) == self.machine.golden_digest
        if vm_runs:
            assert_guest_writes(self)
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
        self._note_result(status)
        assert status["outcome"] == "Failed"
        self._settle(body)
        assert not self.sets()
        assert not [*self.top.rglob(".*.partial")]

    def _note_result(self, status: Body, said: str = "") -> Body:
        """Note what is told of this cell, and return its condition Succeeded."""
        succeeded = next(each for each in status["conditions"] if each["type"] == "Succeeded")
        self.result = Result(
            outcome=status["outcome"],
            reason=succeeded["reason"],
            attempts=status.get("attempt", 0),
            recovery_seconds=self.recovery_seconds,
            said=(said or succeeded.get("message", ""))[:300],
            catches=self.number,
        )
        return dict(succeeded)

    def _settle(self, body: Body) -> None:
        """Wait for what comes shortly after the told end: the journal is emptied, the finalizer goes."""
        forgotten = patiently(lambda: not list((self.stage.state / "runs").glob("*.json")), SETTLE_SECONDS)
        assert forgotten, f"the journal is not empty\n{self.all_that_is_known()}"
        released = patiently(self._is_released, LEAD_SECONDS)
        assert released, f"the finalizer stays: {body['metadata']}\n{self.all_that_is_known()}"
        self.end_watch()

    def _is_released(self) -> bool:
        self.stage.controller.start()  # as a kubelet does: it ends when it could not renew its lead
        try:
            return not self.body()["metadata"].get("finalizers", ())
        except NotFound:
            return True

    def told(self) -> Body:
        """Return the result as it may be published: without the paths of this machine."""
        if self.result is None:
            return {}
        return asdict(replace(self.result, said=self.result.said.replace(str(self.stage.place), "")))

    def close(self) -> None:
        self.end_watch()
