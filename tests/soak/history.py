"""What the VMBackups have shown: every change, and what must never be shown."""

import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from soak.record import Record
from soak.scene import Body, Scene
from vmbackup.api import names

LOOK_SECONDS = 1.0
FINAL = ("phase", "outcome", "set", "completionTime")


class History:
    """One thread reads all VMBackups every second. `last`: the latest body of each, by UID, gone ones too."""

    def __init__(self, scene: Scene, record: Record) -> None:
        self.scene, self.record = scene, record
        self.last: dict[str, Body] = {}
        self.ordered: dict[str, str] = {}  # name by UID
        self.present: set[str] = set()
        self._looking = threading.Lock()
        self._shown: dict[str, tuple[Any, ...]] = {}

    def watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            with suppress(Exception):  # the API server may be away
                self.look()

    def look(self) -> None:
        """Raises whatever the API server's absence raises."""
        with self._looking:  # an older list must not come after a newer one
            bodies = self.scene.backups()
            for body in bodies:
                self._take(body)
            self.present = {body["metadata"]["uid"] for body in bodies}

    def unfinished(self) -> list[Body]:
        """Return those that exist and are not over, as last seen."""
        return [body for uid, body in self.last.items() if uid in self.present and _phase(body) != "Done"]

    def not_let_go(self) -> list[Body]:
        """Return those that exist, are over, and still have a finalizer of ours."""
        return [
            body
            for uid, body in self.last.items()
            if uid in self.present and names.FINALIZER in body["metadata"].get("finalizers", ())
        ]

    def ends(self) -> Counter[str]:
        """Return how many ended how, in words."""
        return Counter(_end(body) for body in self.last.values())

    def _take(self, body: Body) -> None:
        uid, name, status = body["metadata"]["uid"], body["metadata"]["name"], body.get("status", {})
        before = self.last.get(uid)
        self.last[uid] = body
        if before is not None and _phase(before) == "Done":
            changed = [key for key in FINAL if before["status"].get(key) != status.get(key)]
            if changed:
                words = f"over, yet changed: {[(before['status'].get(key), status.get(key)) for key in changed]}"
                self.record.violation("status changed after the end", name, words)
            return
        shown = (status.get("phase"), status.get("outcome"), status.get("attempt"), reason(body))
        if shown != self._shown.get(uid):
            self._shown[uid] = shown
            self.record.say(f"{name} {' '.join(str(each) for each in shown if each)} | {message(body)[:200]}")
        if _phase(body) == "Done":
            self._judge(name, body)

    def _judge(self, name: str, body: Body) -> None:
        """Look at an end when it is first seen."""
        status = body["status"]
        conditions = {each["type"]: each for each in status.get("conditions", ())}
        succeeded = conditions.get("Succeeded", {})
        well = status.get("outcome") == "Succeeded"
        if (succeeded.get("status") == "True") != well or not succeeded.get("reason") or "Reconciling" in conditions:
            self.record.violation("end without a clear condition", name, str(status))
        if not well and not succeeded.get("message"):
            self.record.violation("failure without words", name, str(status))
        if well:
            place = self.scene.places[body["spec"]["location"]]
            with place.still:
                there = (place.path / status["set"] / names.MANIFEST_FILE).exists()
            if not there:
                self.record.violation("success without a set", name, f"{place.path / status['set']} is not there")


def reason(body: Body) -> str:
    return str(_succeeded(body).get("reason", ""))


def message(body: Body) -> str:
    return str(_succeeded(body).get("message", ""))


def _succeeded(body: Body) -> Body:
    conditions: list[Body] = body.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Succeeded"), {})


def _phase(body: Body) -> str:
    return str(body.get("status", {}).get("phase", ""))


def _end(body: Body) -> str:
    if _phase(body) != "Done":
        return "gone before its end was seen"
    status = body["status"]
    method = status.get("method", {}).get("used", "-")
    return f"{status.get('outcome')} {reason(body)} ({method})"


def wait_until(test: Any, seconds: float, rest_seconds: float = 0.5) -> bool:
    """Return whether `test` came true in time."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(rest_seconds)
    return True
