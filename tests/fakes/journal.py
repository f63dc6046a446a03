"""A journal in memory that keeps what the real one keeps: JSON text."""

from collections.abc import Callable, Sequence

from fakes.faults import Faults, strike
from vmbackup.api.journal import Run


class FakeJournal:
    """`records`: JSON by UID. `errors["record"]` raises before the effect, `errors_after["record"]` after it.

    `hook("record" | "forget", "before" | "after")` is called around every effect and may raise.
    """

    def __init__(self) -> None:
        self.records: dict[str, str] = {}
        self.calls: list[tuple[str, Run]] = []
        self.errors: Faults = {}
        self.errors_after: Faults = {}
        self.hook: Callable[[str, str], None] = lambda _call, _when: None

    def record(self, run: Run) -> None:
        self.calls.append(("record", run))
        self.hook("record", "before")
        strike(self.errors, "record")
        self.records[run.uid] = run.model_dump_json(by_alias=True)
        strike(self.errors_after, "record")
        self.hook("record", "after")

    def forget(self, run: Run) -> None:
        self.calls.append(("forget", run))
        self.hook("forget", "before")
        strike(self.errors, "forget")
        self.records.pop(run.uid, None)
        strike(self.errors_after, "forget")
        self.hook("forget", "after")

    def runs(self) -> Sequence[Run]:
        return tuple(Run.model_validate_json(text) for text in self.records.values())
