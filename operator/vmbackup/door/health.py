"""Whether this process still does its work: what a kubelet asks, and restarts us when the answer is no."""

import json
import logging
import time

from vmbackup.door.pages import Page, Server

log = logging.getLogger(__name__)

LOOP_SECONDS = 60.0
WATCH_SECONDS = 30.0


class Health:
    """Collects signs of life. `ready`: the cache is filled, so that this replica could lead."""

    def __init__(self) -> None:
        self.ready = False
        self._heard: dict[str, tuple[float, float]] = {}
        self._silent: dict[str, int] = {}
        self._current: dict[str, float] = {}

    def beat(self, part: str, limit_seconds: float) -> None:
        """Note that a part is alive; it must say so again within the limit."""
        self._heard[part] = time.monotonic(), limit_seconds

    def watch_is_silent(self, kind: str, objects: int) -> None:
        """Note how many objects of a kind changed more than a minute ago without being heard of."""
        if objects:
            log.error("the watch of %s is silent: %d objects changed unheard", kind, objects)
        self._silent[kind] = objects
        if not objects:
            self.watch_speaks(kind)

    def watch_speaks(self, kind: str) -> None:
        """Note that nothing of a kind is missed at this moment."""
        self._current[kind] = time.monotonic()

    def watch_ages(self) -> dict[str, float]:
        """Return by kind how many seconds ago its watch was last known to miss nothing."""
        now = time.monotonic()
        return {kind: now - at for kind, at in dict(self._current).items()}

    def problems(self) -> list[str]:
        now = time.monotonic()
        late = [
            f"{part}: no sign of life for {now - at:.0f} s"
            for part, (at, limit_seconds) in dict(self._heard).items()
            if now - at > limit_seconds
        ]
        silent = [f"watch of {kind}: {objects} objects unheard" for kind, objects in self._silent.items() if objects]
        return [*late, *silent]

    def page(self) -> Page:
        """Return the answer to whether this process works."""
        return _page(self.problems())

    def readiness_page(self) -> Page:
        """Return the answer to whether this process could also lead."""
        return _page([*([] if self.ready else ["the cache is not filled yet"]), *self.problems()])


def serve(health: Health, port: int) -> Server:
    """Answer /healthz and /readyz on a port from a thread; port 0 takes a free one."""
    return Server(("", port), {"/healthz": health.page, "/readyz": health.readiness_page})


def _page(problems: list[str]) -> Page:
    return Page(json.dumps({"problems": problems}).encode(), "application/json", 503 if problems else 200)
