"""One cell of a removal: the set of a deleted VMBackup goes, wholly, and no other."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from fault.box import SHORT_NAME, Box
from fault.cell import LEAD_SECONDS, Result
from fault.machine import NAMESPACE, digest, patiently
from fault.stage import PLAIN, Stage
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMBACKUP

CATCHES_MAX = 6
END_SECONDS = 90.0


class RemovalCell:
    """A VMBackup of its own, with `deletionPolicy: Delete`; it is deleted, and the agent stopped in the phase."""

    def __init__(self, stage: Stage, box: Box, method: str, phase: str, fault: str) -> None:
        self.stage, self.box, self.method, self.phase, self.fault = stage, box, method, phase, fault
        self.name = ""
        self.number = 0
        self.set: Path
        self.result: Result | None = None
        self.recovery_seconds: float | None = None
        self._fault_over_at: float | None = None

    def catch(self) -> None:
        """Have a set, delete its VMBackup, and stop the agent in the cell's phase."""
        for _ in range(CATCHES_MAX):
            self.number += 1
            self.name = f"{self.method}-{self.phase}-{self.fault}-{self.number}".lower()
            self.set = self.box.back_up(self.name, deletionPolicy="Delete")
            self.stage.client.call("DELETE", VMBACKUP.path(self.name, NAMESPACE))
            deadline = time.monotonic() + END_SECONDS
            while not self._in_phase() and self._exists():
                assert time.monotonic() < deadline, self.stage.logs()
            self.stage.agent.hold()
            if self._in_phase():
                return
            self.stage.agent.go_on()
            assert patiently(lambda: not self.exists(), END_SECONDS)
        raise AssertionError(f"phase {self.phase} was too short {CATCHES_MAX} times")

    def _in_phase(self) -> bool:
        recorded = any((self.stage.state / "removals").glob("*.json"))
        return recorded and self.set.exists() if self.phase == "Recorded" else bool(self._trash())

    def _exists(self) -> bool:
        """Return whether there is still something to be met."""
        return self.set.exists() or bool(self._trash())

    def _trash(self) -> list[Path]:
        return list(self.set.parent.glob(".*.trash"))

    def exists(self) -> bool:
        try:
            self.stage.resources.get(VMBACKUP, self.name, NAMESPACE)
        except NotFound:
            return False
        return True

    def fault_is_over(self) -> None:
        self._fault_over_at = time.monotonic()

    def ends(self) -> None:
        """Wait until set and resource are gone, and assert that nothing else is."""
        gone = patiently(lambda: not self.exists() and not self._exists(), END_SECONDS)
        assert gone, f"the set or its VMBackup stays: {self._trash()}\n{self.stage.logs()}"
        if self._fault_over_at is not None:
            self.recovery_seconds = round(time.monotonic() - self._fault_over_at, 1)
        forgotten = patiently(lambda: not any((self.stage.state / "removals").glob("*.json")), LEAD_SECONDS)
        assert forgotten, "the record of the removal stays"
        self.assert_others_untouched()
        self.result = Result("Gone", "Removed", 1, self.recovery_seconds, "the set is removed", self.number)

    def assert_others_untouched(self) -> None:
        assert {path: digest(Path(path)) for path in self.stage.old_set} == self.stage.old_set, "an old set was touched"
        top = self.stage.directory(PLAIN)
        assert (top / "foreign.txt").read_text() == "not ours\n"
        found = [json.loads(path.read_text())["backupName"] for path in top.glob(f"*/{SHORT_NAME}/*/manifest.json")]
        assert found == ["first"], found

    def told(self) -> dict[str, object]:
        return asdict(self.result) if self.result else {}

    def mend(self) -> None:
        self.stage.agent.go_on()
        self.stage.mend(spoiled=False)
