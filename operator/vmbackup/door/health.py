"""Whether this process still does its work: what a kubelet asks, and restarts us when the answer is no."""

import http.server
import json
import logging
import threading
import time

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


def serve(health: Health, port: int) -> http.server.ThreadingHTTPServer:
    """Answer /healthz and /readyz on a port from a thread; port 0 takes a free one."""

    class Probe(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            problems = health.problems()
            if self.path == "/readyz" and not health.ready:
                problems = ["the cache is not filled yet", *problems]
            if self.path not in ("/healthz", "/readyz"):
                self.send_error(404)
                return
            body = json.dumps({"problems": problems}).encode()
            self.send_response(503 if problems else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            log.debug(format, *args)

    server = http.server.ThreadingHTTPServer(("", port), Probe)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
    return server
