"""A child that thaws a guest when nobody else is left to do it: the agent may be killed while the guest is frozen.

It has no part in a freeze that goes well. It waits on a pipe: a word means that the guest is thawed, the end of the
pipe that the process which froze it is dead, and silence past the limit that it hangs. It is in a session of its own
and outlives its parent. Run as `python -m vmbackup.hypervisor.guard URI DOMAIN-UUID LIMIT-SECONDS`.
"""

import logging
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import libvirt

from vmbackup.errors import VMBackupError
from vmbackup.hypervisor.pods import reach

TRY_AGAIN_SECONDS = 0.5
# Not longer: a new agent may by then have frozen the guest again, for its next attempt.
TRYING_SECONDS = 5.0
THAW_ANSWER_SECONDS = 5
END_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Guard:
    """The guard of one freeze, from before the guest is frozen until `dismiss`."""

    def __init__(self, uri: str, domain_uuid: str, limit_seconds: float) -> None:
        command = [sys.executable, "-P", "-m", __name__, uri, domain_uuid, str(limit_seconds)]
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            _log.warning("VM %s is frozen without a guard beside us: %s", domain_uuid, error)

    def dismiss(self) -> None:
        """Let it go, the guest is thawed; returns when it has ended."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.communicate(b"thawed\n", END_SECONDS)


def watch(words: int, limit_seconds: float, thaw: Callable[[], bool]) -> None:
    """Wait for a word on the descriptor `words`; without one call `thaw` until it returns True, or time is up."""
    heard, _, _ = select.select([words], [], [], limit_seconds)
    if heard and os.read(words, 1):
        return
    until = time.monotonic() + TRYING_SECONDS
    while not thaw() and time.monotonic() < until:
        time.sleep(TRY_AGAIN_SECONDS)


def _thaw(uri: str, domain_uuid: str) -> bool:
    """Try to thaw once; return whether there is nothing more to do."""
    try:
        with reach(uri) as real:
            domain = libvirt.open(real).lookupByUUIDString(domain_uuid)
        if domain.isActive():
            domain.agentSetResponseTimeout(THAW_ANSWER_SECONDS, 0)
            domain.fsThaw()
    except libvirt.libvirtError as error:
        return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)
    except VMBackupError:
        return False  # a pod without a daemon now
    return True


def main(uri: str, domain_uuid: str, limit_seconds: str) -> None:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # the log is the agent's, who speaks of it
    watch(sys.stdin.fileno(), float(limit_seconds), lambda: _thaw(uri, domain_uuid))


if __name__ == "__main__":
    main(*sys.argv[1:])
