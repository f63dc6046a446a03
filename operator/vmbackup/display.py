"""How a backup looks on a terminal: one line per backup, live; plain lines where nobody watches."""

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vmbackup.api.conditions import ConditionType, find
from vmbackup.api.vmbackup import Outcome, Phase, VMBackupStatus
from vmbackup.units import human_bytes, human_seconds

COLOURS = {
    Outcome.SUCCEEDED: "green",
    Outcome.CANCELLED: "yellow",
    Outcome.FAILED: "red",
    Outcome.REFUSED: "red",
    Outcome.STRANDED: "bold red",
}


class Display:
    """Shows the statuses of some backups until it is closed. `show` may be called from any thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._statuses: dict[str, VMBackupStatus] = {}
        self._told: dict[str, str] = {}
        self._live = Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None

    def __enter__(self) -> "Display":
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
        self._statuses[key] = status
        if self._live:
            self._live.update(self._render())
            return
        line = f"{key}: {sentence(status)}"
        if self._told.get(key) != line:
            self._told[key] = line
            self._console.print(line, markup=False, highlight=False)

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 1))
        for key, status in self._statuses.items():
            table.add_row(Text(key, style="bold"), _phase(status), _bar(status), _figures(status))
        messages = [Text(f"  {key}: {message(status)}", style="dim") for key, status in self._statuses.items()]
        return Group(table, *messages)


def sentence(status: VMBackupStatus) -> str:
    """Return the status as one plain line, the percent in steps of ten so that a log stays short."""
    if status.phase is Phase.DONE:
        return f"{status.outcome}: {message(status)}"
    shown = f" {status.progress.percent // 10 * 10}%" if status.progress and status.phase is Phase.COPYING else ""
    return f"{status.phase}{shown}: {message(status)}"


def message(status: VMBackupStatus) -> str:
    succeeded = find(status.conditions, ConditionType.SUCCEEDED)
    return succeeded.message if succeeded else ""


def _phase(status: VMBackupStatus) -> Text:
    if status.phase is Phase.DONE and status.outcome:
        return Text(str(status.outcome), style=COLOURS[status.outcome])
    return Text(str(status.phase), style="cyan")


def _bar(status: VMBackupStatus) -> ProgressBar:
    return ProgressBar(total=100, completed=status.progress.percent if status.progress else 0, width=30)


def _figures(status: VMBackupStatus) -> Text:
    progress = status.progress
    if progress is None:
        return Text("")
    if status.phase is Phase.DONE:
        size = human_bytes(status.stored_bytes) if status.stored_bytes is not None else ""
        return Text("  ".join(part for part in (size, status.summary.duration if status.summary else "") if part))
    parts = [f"{progress.percent:3d}%", f"{human_bytes(progress.bytes_done)} of {human_bytes(progress.bytes_total)}"]
    if progress.bytes_per_second:
        parts.append(f"{human_bytes(progress.bytes_per_second)}/s")
    if progress.eta_seconds is not None:
        parts.append(f"{human_seconds(progress.eta_seconds)} left")
    return Text("  ".join(parts))
