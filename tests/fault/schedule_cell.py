"""One cell of a schedule: every minute of it gets one child, whoever dies."""

import time
from collections import Counter
from dataclasses import asdict

from fault.box import SHORT_NAME
from fault.cell import Result
from fault.machine import NAMESPACE, patiently
from fault.stage import PLAIN, Stage
from vmbackup.api import names
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP

NAME = "minutely"
MINUTE_SECONDS = 60
END_SECONDS = 100.0  # a minute, and a controller that waits for the Lease of the one before
STATUS = f"/{SCHEDULE.plural}/{NAME}/status"


class ScheduleCell:
    """The controller of these cells asks the API server through the front."""

    def __init__(self, stage: Stage, method: str, phase: str, fault: str) -> None:
        self.stage, self.method, self.phase, self.fault = stage, method, phase, fault
        self.result: Result | None = None
        self.recovery_seconds: float | None = None
        self._fault_over_at: float | None = None

    def stand_in(self) -> None:
        self.stage.controller.kill()
        self.controller = self.stage.controller_behind_front()
        self.controller.start()

    def begin(self) -> None:
        """Apply a schedule of every minute, and return when the controller has its first look behind it."""
        spec = {
            "schedule": "* * * * *",
            "vms": {"names": [SHORT_NAME]},
            "concurrencyPolicy": "Allow",
            "template": {"spec": {"location": PLAIN}},
        }
        metadata = {"name": NAME, "namespace": NAMESPACE}
        body = {"apiVersion": names.API_VERSION, "kind": SCHEDULE.name, "metadata": metadata, "spec": spec}
        self.stage.client.create(SCHEDULE.collection(NAMESPACE), body)
        assert patiently(lambda: self.status().get("nextScheduleTime"), END_SECONDS), self.logs()

    def status(self) -> dict[str, object]:
        return dict(self.stage.resources.get(SCHEDULE, NAME, NAMESPACE).get("status", {}))

    def children(self) -> list[int]:
        """Return the minutes since the epoch that the children are for, in order."""
        labels = [
            body["metadata"].get("labels") or {} for body in self.stage.client.list(VMBACKUP.collection(NAMESPACE))
        ]
        return sorted(int(one[names.LABEL_RUN]) for one in labels if one.get(names.LABEL_SCHEDULE) == NAME)

    def refuse_status(self) -> None:
        """Let children be made from now on, but no status be written."""
        self.stage.front.verdict = lambda method, path: 500 if method == "PATCH" and STATUS in path else None

    def until_child(self) -> int:
        """Return the minute of the newest child, when there is one that was not there."""
        before = self.children()
        new = patiently(lambda: sorted(set(self.children()) - set(before)), END_SECONDS)
        assert new, f"no child\n{self.logs()}"
        return int(new[-1])

    def fault_is_over(self) -> None:
        self._fault_over_at = time.monotonic()

    def ends(self, minute: int) -> None:
        """Wait for the status of the run of a minute and the run after it; no minute has two children, none is lost."""
        assert patiently(lambda: minute in self.children(), END_SECONDS), f"run {minute} is lost\n{self.logs()}"
        if self._fault_over_at is not None:
            self.recovery_seconds = round(time.monotonic() - self._fault_over_at, 1)
        assert patiently(lambda: minute + 1 in self.children(), END_SECONDS), f"it does not go on\n{self.logs()}"
        found = self.children()
        assert max(Counter(found).values()) == 1, f"two children for one minute: {found}"
        assert found == list(range(found[0], found[-1] + 1)), f"minutes are missing: {found}"
        self.result = Result("Scheduled", "Scheduled", 1, self.recovery_seconds, f"{len(found)} children", 1)

    def told(self) -> dict[str, object]:
        return asdict(self.result) if self.result else {}

    def logs(self) -> str:
        return self.controller.last_words(4000)

    def mend(self) -> None:
        self.stage.front.answer()
        if self.controller.runs:
            self.controller.kill()
        self.stage.controller.start()
        for body in self.stage.client.list(SCHEDULE.collection(NAMESPACE)):
            self.stage.client.call("DELETE", SCHEDULE.path(body["metadata"]["name"], NAMESPACE))
        self.stage.mend(spoiled=False)


def next_minute() -> int:
    """Return the minute since the epoch that begins next."""
    return int(time.time() // MINUTE_SECONDS) + 1


def seconds_until(minute: int) -> float:
    return max(0.0, minute * MINUTE_SECONDS - time.time())
