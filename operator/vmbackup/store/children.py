"""Child processes that die with us, keep to limits and leave no more than their last words."""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmbackup.units import GIB, MIB

WORDS_BYTES_MAX = 4096
OUTPUT_BYTES_MAX = 16 * MIB
MEANWHILE_SECONDS = 0.5


@dataclass(frozen=True)
class Limits:
    """Bounds against images that are made to harm (CVE-2015-5162): None is unbounded."""

    address_space_bytes: int | None = 8 * GIB
    cpu_seconds: int | None = None
    file_bytes: int | None = None

    @property
    def words(self) -> list[str]:
        named = (("as", self.address_space_bytes), ("cpu", self.cpu_seconds), ("fsize", self.file_bytes), ("core", 0))
        return [f"--{name}={value}" for name, value in named if value is not None]


@dataclass(frozen=True)
class Ended:
    """How a child ended. `error` is empty when it ended by itself; its exit code may still not be 0."""

    code: int
    output: bytes
    error: str
    last_words: str


def run_child(
    command: Sequence[str],
    *,
    files: Sequence[int] = (),
    limits: Limits,
    started: Callable[[subprocess.Popen[bytes]], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a program to its end, in the thread that called: when this thread dies, so does the child.

    `files` are descriptors that it may use as /proc/self/fd/N. `started` gets the process, to be able to kill it;
    `meanwhile` is called now and then.
    The death signal is set by setpriv between fork and exec, since a preexec_fn is not safe beside threads.
    """
    output, words = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("output", "words"))
    try:
        process = subprocess.Popen(
            ["prlimit", *limits.words, "setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=words,
            pass_fds=tuple(files),
            env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "LC_ALL": "C"},
            umask=0o177,
        )
        started(process)
        _await(process, meanwhile)
        code = process.wait()
        return Ended(code, os.pread(output, OUTPUT_BYTES_MAX, 0), _how(command[0], code), _last_lines(words))
    finally:
        os.close(output)
        os.close(words)


def _how(program: str, code: int) -> str:
    if code >= 0:
        return ""
    return f"{program} was ended by signal {-code} ({signal.strsignal(-code)})"


def _await(process: subprocess.Popen[bytes], meanwhile: Callable[[], None]) -> None:
    """Wait without polling: Popen.wait with a timeout would look 20 times a second."""
    handle = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while not poll.poll(MEANWHILE_SECONDS * 1000):
            meanwhile()
    finally:
        os.close(handle)


def _last_lines(file: int) -> str:
    """Return the last two lines: QEMU puts its hint after the error."""
    start = max(0, os.fstat(file).st_size - WORDS_BYTES_MAX)
    text = os.pread(file, WORDS_BYTES_MAX, start).decode(errors="replace")
    return "; ".join(line.strip() for line in text.strip().splitlines()[-2:])
