"""`vmbackup-operator run` without its terminal, in a thread: what waits, what is told, how it ends."""

import threading
import uuid
from pathlib import Path
from typing import Any

from integration.libvirt.backup import RUN_SECONDS
from integration.libvirt.machines import VM, wait_until
from integration.libvirt.rig import NAMESPACE, Rig
from vmbackup.api.conditions import Condition, ConditionType, find
from vmbackup.api.vmbackup import Outcome, VMBackup, VMBackupStatus
from vmbackup.standalone import Settings, Standalone


class Alone:
    """One backup by the standalone engine; `statuses` holds all that a user was shown."""

    def __init__(self, rig: Rig, vm_name: str, **spec: Any) -> None:
        settings = Settings(
            request=Path("/nowhere"),
            location=rig.location,
            connect=rig.daemon.uri,
            state=rig.state,
            min_free="1Mi",
            allow_monitor=False,
        )
        body = {
            "kind": "VMBackup",
            "metadata": {"namespace": NAMESPACE, "name": "alone", "uid": str(uuid.uuid4())},
            "spec": {"source": {"name": vm_name}, "location": "local", **spec},
        }
        self.statuses: list[VMBackupStatus] = []
        self._error: BaseException | None = None
        self._outcome: Outcome | None = None
        self.engine = Standalone(settings, VMBackup.parse(body), lambda _key, status: self.statuses.append(status))
        self.thread = threading.Thread(target=self._work, name="alone", daemon=True)
        self.thread.start()

    def wait_for(self, type_: ConditionType, *words: str) -> Condition:
        """Wait until the condition says all the words."""

        def told() -> Condition | None:
            condition = find(self.statuses[-1].conditions, type_) if self.statuses else None
            said = condition is not None and all(word in f"{condition.reason} {condition.message}" for word in words)
            return condition if said else None

        condition = wait_until(lambda: told() or not self.thread.is_alive(), f"{type_} says {words}")
        assert isinstance(condition, Condition), f"over before {words} were said: {self.statuses[-1:]} {self._error!r}"
        return condition

    def end(self) -> Outcome:
        self.thread.join(RUN_SECONDS)
        assert not self.thread.is_alive(), f"not over: {self.statuses[-1:]}"
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        return self._outcome

    def why(self) -> str:
        """Return reason and message of the end."""
        condition = find(self.statuses[-1].conditions, ConditionType.SUCCEEDED)
        assert condition is not None
        return f"{condition.reason}: {condition.message}"

    def _work(self) -> None:
        try:
            self._outcome = self.engine.run()
        except BaseException as error:
            self._error = error


def run_alone(rig: Rig, vm: VM, **spec: Any) -> Alone:
    """Begin a backup that `rig` ends, should the test not do so."""
    alone = Alone(rig, vm.short_name, **spec)
    rig.at_end(alone.engine.cancel)
    rig.at_end(lambda: alone.thread.join(RUN_SECONDS))
    return alone
