"""What happened: a time line, counts, and the violations with all that was known at that moment."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

VIOLATIONS_MAX = 40


class Violation(NamedTuple):
    """`subject`: the VM, backup, set or process. `evidence`: the directory with what was known."""

    kind: str
    subject: str
    words: str
    evidence: Path


class Record:
    """Safe for threads. `witness` writes all that is known into a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.faults: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.witness: Callable[[Path], None] = lambda _directory: None
        self.began = time.monotonic()
        self._lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self._line = (directory / "timeline.log").open("a", buffering=1)

    def begin(self) -> None:
        """Let the time begin now, with everything up."""
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def say(self, words: str) -> None:
        """Add a line to the time line."""
        with self._lock:
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
            self._line.write(f"{now} {self.seconds:7.1f} {words}\n")

    def fault(self, kind: str) -> None:
        with self._lock:
            self.faults[kind] += 1

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def known(self, kind: str, subject: str) -> bool:
        return any((each.kind, each.subject) == (kind, subject) for each in self.violations)

    def violation(self, kind: str, subject: str, words: str) -> None:
        """Note that something which must never be so is so. The same kind for the same subject counts once."""
        with self._lock:
            if self.known(kind, subject) or len(self.violations) >= VIOLATIONS_MAX:
                return
            evidence = self.directory / f"violation-{len(self.violations) + 1:02}"
            self.violations.append(Violation(kind, subject, words, evidence))
        self.say(f"VIOLATION {kind}: {subject}: {words}")
        evidence.mkdir(parents=True, exist_ok=True)
        (evidence / "words.txt").write_text(f"{self.seconds:.1f} s: {kind}\n{subject}\n{words}\n")
        self.witness(evidence)
