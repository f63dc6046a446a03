"""A ledger that keeps every report."""

from collections.abc import Mapping

from vmbackup.api.journal import Run
from vmbackup.core.facts import Facts, Wishes


class FakeLedger:
    """`reports` holds all that was told; `wish` is what every user wants, `wished` what one wants, by UID."""

    def __init__(self, wish: Wishes | None = None, wished: Mapping[str, Wishes] | None = None) -> None:
        self.reports: list[tuple[Run, Facts]] = []
        self.wish = wish or Wishes()
        self.wished = dict(wished or {})

    @property
    def last(self) -> Run:
        return self.reports[-1][0]

    def report(self, run: Run, facts: Facts) -> None:
        self.reports.append((run, facts))

    def wishes(self, run: Run) -> Wishes:
        return self.wished.get(run.uid, self.wish)
