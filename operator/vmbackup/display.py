"""How backups look on a terminal: a line each, live; plain lines where nobody watches."""

import time
from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vmbackup.api.conditions import ConditionType, Reason, find
from vmbackup.api.vmbackup import Outcome, Phase, VMBackupStatus
from vmbackup.units import human_bytes, human_seconds

COLOURS: dict[Outcome | None, str] = {
    Outcome.SUCCEEDED: "green",
    Outcome.CANCELLED: "yellow",
    Outcome.FAILED: "red",
    Outcome.REFUSED: "red",
    Outcome.STRANDED: "bold red",
}
PHASE_WIDTH = max(len(phase) for phase in Phase)
BAR_WIDTH_MIN, BAR_WIDTH_MAX = 10, 30
GAPS_WIDTH = 5  # between the five columns, and the glyph


class Display:
    """Shows the statuses of some backups until it is closed. `show` may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = Lock()
        self._statuses: dict[str, VMBackupStatus] = {}
        self._seen_at: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._spinner = Spinner("dots", style="cyan")
        # What is shown moves between two statuses too: the spinner turns and the seconds go by.
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=8) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, key: str, status: VMBackupStatus) -> None:
        """Show the newest status of one backup."""
        with self._lock:
            self._statuses[key] = status
            self._seen_at.setdefault(key, time.monotonic())
            if self._live:
                return
            line = f"{key}: {sentence(status)}"
            if self._told.get(key) != line:
                self._told[key] = line
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            statuses = dict(self._statuses)
        now = time.monotonic()
        told = {key: figures(status, now - self._seen_at[key]) for key, status in statuses.items()}
        width = self._console.width - max(map(len, statuses), default=0) - max(map(len, told.values()), default=0)
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True, overflow="ellipsis")
        table.add_column(width=PHASE_WIDTH)
        table.add_column(width=max(BAR_WIDTH_MIN, min(BAR_WIDTH_MAX, width - PHASE_WIDTH - GAPS_WIDTH)))
        table.add_column(no_wrap=True, overflow="ellipsis")
        remarks: list[RenderableType] = []
        for key, status in statuses.items():
            table.add_row(_mark(status) or self._spinner, Text(key), _phase(status), _bar(status), Text(told[key]))
            words = remark(status)
            if words:
                remarks.append(Text(f"  {key}: {words}", style=COLOURS.get(status.outcome, "yellow")))
        return Group(table, *remarks)


def sentence(status: VMBackupStatus) -> str:
    """Return the status as one plain line, the percent in steps of ten so that a log stays short."""
    if status.phase is Phase.DONE:
        return f"{status.outcome}: {message(status)}"
    shown = f" {status.progress.percent // 10 * 10}%" if status.progress and status.phase is Phase.COPYING else ""
    return f"{status.phase}{shown}: {message(status)}"


def message(status: VMBackupStatus) -> str:
    succeeded = find(status.conditions, ConditionType.SUCCEEDED)
    return succeeded.message if succeeded else "waiting to be assigned to a node"


def remark(status: VMBackupStatus) -> str:
    """Return what the figures do not say: why it waits, goes home or ended badly. Empty when all is as it should be."""
    succeeded = find(status.conditions, ConditionType.SUCCEEDED)
    if succeeded is None or succeeded.reason in (Reason.RUNNING, Reason.COMPLETED):
        return ""
    return succeeded.message


def figures(status: VMBackupStatus, elapsed_seconds: float) -> str:
    """Return how far it is, how fast and how long; of a backup that is over, what came of it."""
    if status.phase is Phase.DONE:
        took = status.summary.duration if status.summary else ""
        size = human_bytes(status.stored_bytes) if status.stored_bytes is not None else ""
        return f"{size} in {took}" if size and took else took
    progress = status.progress
    if progress is None or status.phase is not Phase.COPYING:
        return _whole_seconds(elapsed_seconds)
    parts = [f"{progress.percent:3d}%", f"{human_bytes(progress.bytes_done)} of {human_bytes(progress.bytes_total)}"]
    if progress.bytes_per_second:
        parts.append(f"{human_bytes(progress.bytes_per_second)}/s")
    if progress.eta_seconds is not None:
        parts.append(f"{_whole_seconds(progress.eta_seconds)} left")
    return "  ".join(parts)


def _whole_seconds(seconds: float) -> str:
    return human_seconds(seconds) if seconds >= 10 else f"{seconds:.0f}s"


def _mark(status: VMBackupStatus) -> Text | None:
    if status.phase is not Phase.DONE or status.outcome is None:
        return None
    return Text("✔" if status.outcome is Outcome.SUCCEEDED else "✘", style=COLOURS[status.outcome])


def _phase(status: VMBackupStatus) -> Text:
    if status.phase is Phase.DONE and status.outcome:
        return Text(status.outcome, style=COLOURS[status.outcome])
    return Text(status.phase, style="cyan")


def _bar(status: VMBackupStatus) -> ProgressBar:
    percent = status.progress.percent if status.progress else 0
    failed = status.outcome not in (None, Outcome.SUCCEEDED)
    return ProgressBar(
        total=100,
        completed=percent,
        # Before the first byte there is nothing to measure, but something goes on.
        pulse=status.phase not in (Phase.PENDING, Phase.DONE) and status.progress is None,
        complete_style=COLOURS.get(status.outcome, "red") if failed else "bar.complete",
        finished_style=COLOURS.get(status.outcome, "red") if failed else "bar.finished",
    )
