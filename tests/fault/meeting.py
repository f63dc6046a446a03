"""Meeting a backup in one of its phases, at the moment that counts there."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fault.backup import END_SECONDS, Backup, Body

CATCHES_MAX = 8
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


class Meeting(Backup):
    """A backup that is applied until it is met."""

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
            while self.record().get("freeze") != "Frozen" and not self.is_over():
                time.sleep(0.001)
            self.stage.agent.hold()
            record = self.record()
            if record.get("freeze") == "Frozen" and not record["began"]:
                return
            self._let_pass()
        raise AssertionError(f"the guest was frozen too shortly {CATCHES_MAX} times")

    def kill_child(self, program: str) -> None:
        """Apply a VMBackup and kill the first such child of the agent in the cell's phase, which may be a short one."""
        for _ in range(CATCHES_MAX):
            self.begin()
            while not self.is_over():
                children = self.stage.agent.children(program) if self.record().get("phase") == self.phase else []
                for child in children:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                        return
            self.until_over()
            self.end_watch()
            self.stage.mend(spoiled=False)
        raise AssertionError(f"no {program} was met in {self.phase} {CATCHES_MAX} times")

    def _hold_in_phase(self, once: "Look") -> bool:
        wanted = self.phase
        deadline = time.monotonic() + END_SECONDS
        held = False
        while not (self._in_phase(record := self.record()) and once(self)):
            if not held and (self.method, wanted, record.get("began")) == ("Push", "Copying", True):
                held = self.machine.hold_push()
            if record.get("phase") in ("Discarding", "Done") or (not record and self.is_over()):
                return False
            assert time.monotonic() < deadline, self.all_that_is_known()
            time.sleep(0.001)
        self.stage.agent.hold()
        runs = (self.method, wanted) != ("Push", "Copying") or bool(self.machine.portrait().jobs)
        return runs and self._in_phase(self.record())

    def _in_phase(self, record: Body) -> bool:
        intended = INTENDED.get(self.phase)
        return record.get("phase") == self.phase and (intended is None or bool(intended(record)))

    def _let_pass(self) -> None:
        """Let a backup that was not met in time come to its good end."""
        self.stage.agent.go_on()
        self.let_push_go()
        self.until_over()
        assert self.body()["status"]["outcome"] == "Succeeded", self.all_that_is_known()
        self.end_watch()
        self.stage.mend(spoiled=False)


Look = Callable[[Meeting], bool]


def _at_once(_: Meeting) -> bool:
    return True
