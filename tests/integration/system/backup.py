"""A VMBackup as the API server shows it, and the patience to wait for what must come."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 90.0
LOOK_SECONDS = 0.1
Body = dict[str, Any]


class Backup:
    """A VMBackup as the API server shows it at one moment."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.metadata: Body = body["metadata"]
        self.spec: Body = body["spec"]
        self.status: Body = body.get("status", {})

    @property
    def phase(self) -> str:
        return str(self.status.get("phase"))

    @property
    def outcome(self) -> str | None:
        return self.status.get("outcome")

    @property
    def over(self) -> bool:
        return self.phase == "Done"

    @property
    def bytes_done(self) -> int:
        return int(self.status.get("progress", {}).get("bytesDone", 0))

    @property
    def session(self) -> str | None:
        return self.status.get("executor", {}).get("session")

    @property
    def conditions(self) -> dict[str, Body]:
        return {condition["type"]: condition for condition in self.status.get("conditions", ())}

    @property
    def reason(self) -> str:
        return str(self.conditions.get("Succeeded", {}).get("reason"))

    @property
    def message(self) -> str:
        return str(self.conditions.get("Succeeded", {}).get("message"))


def eventually(test: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until `test` returns something true."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(LOOK_SECONDS)
