"""Wait for a condition instead of for time to pass."""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 10.0


def eventually(test: Callable[[], object], what: str = "", seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until `test` returns something true; fail with `what` when it never does."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, f"never came: {what or test}"
        time.sleep(0.005)
