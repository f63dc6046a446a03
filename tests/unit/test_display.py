"""What a person sees of a backup: live on a terminal, as plain lines in a log."""

import io

from rich.console import Console

from vmbackup.api.conditions import Condition, ConditionType, Reason
from vmbackup.api.vmbackup import Outcome, Phase, Progress, Summary, VMBackupStatus
from vmbackup.display import Display, figures
from vmbackup.units import GIB, MIB

SET = "demo/web/20261123T161804Z-a-name-that-makes-the-path-longer-than-any-terminal-is-wide-be041a91"


def succeeded(reason: str, message: str, truth: str = "Unknown") -> tuple[Condition, ...]:
    return (
        Condition(
            type=ConditionType.SUCCEEDED, status=truth, reason=reason, message=message, last_transition_time="2026"
        ),
    )


def copying(percent: int, **changes: object) -> VMBackupStatus:
    progress = Progress(
        bytes_done=percent * 4 * GIB // 100,
        bytes_total=4 * GIB,
        percent=percent,
        bytes_per_second=512 * MIB,
        eta_seconds=(100 - percent) * 8 // 100,
    )
    told = succeeded(Reason.RUNNING, "VM web: copying the disks")
    return VMBackupStatus(phase=Phase.COPYING, progress=progress, conditions=told, **changes)


DONE = VMBackupStatus(
    phase=Phase.DONE,
    outcome=Outcome.SUCCEEDED,
    stored_bytes=GIB,
    summary=Summary.of(percent=100, stored_bytes=GIB, seconds=83),
    conditions=succeeded(Reason.COMPLETED, f"VM web is backed up: {SET}.", "True"),
)
FAILED = VMBackupStatus(
    phase=Phase.DONE,
    outcome=Outcome.FAILED,
    conditions=succeeded(Reason.NO_SPACE, "VM web: only 12 MiB are left", "False"),
)
WAITING = VMBackupStatus(
    phase=Phase.PENDING, conditions=succeeded(Reason.VM_NOT_RUNNING, "VM web is shut off; start it")
)


def shown(*statuses: VMBackupStatus, terminal: bool, width: int = 100) -> str:
    """Return everything that is written while these statuses of one backup come, colours left out."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None, legacy_windows=False)
    with Display(console) as display:
        for status in statuses:
            display.show("web-push", status)
    return stream.getvalue()


def test_a_log_gets_no_control_characters_and_no_line_twice() -> None:
    text = shown(copying(11), copying(12), copying(13), copying(25), DONE, DONE, terminal=False)
    assert "\x1b" not in text
    assert [line.partition(":")[2].split(":")[0].strip() for line in text.splitlines()] == [
        "Copying 10%",
        "Copying 20%",
        "Succeeded",
    ]


def test_the_path_of_the_set_is_on_one_line_of_a_log_however_long_it_is() -> None:
    assert any(f"{SET}." in line for line in shown(DONE, terminal=False, width=80).splitlines())


def test_a_message_with_brackets_is_shown_as_it_is() -> None:
    status = FAILED.model_copy(update={"conditions": succeeded(Reason.STORE_ERROR, "disk [red]vda[/red] is bad")})
    for terminal in (False, True):
        assert "disk [red]vda[/red] is bad" in shown(status, terminal=terminal)


def test_a_terminal_shows_how_far_how_fast_and_how_long_still() -> None:
    text = shown(copying(25), terminal=True)
    for words in ("Copying", " 25%", "1.0 GiB of 4.0 GiB", "512.0 MiB/s", "6s left"):
        assert words in text


def test_a_terminal_says_why_a_backup_failed_or_waits() -> None:
    assert "only 12 MiB are left" in shown(FAILED, terminal=True)
    assert "is shut off; start it" in shown(WAITING, terminal=True)


def test_a_terminal_does_not_repeat_in_words_what_the_figures_say() -> None:
    assert "copying the disks" not in shown(copying(25), terminal=True)


def test_a_narrow_terminal_keeps_every_line_within_its_width() -> None:
    for status in (copying(25), DONE, WAITING):
        lines = shown(status, terminal=True, width=60).replace("\x1b[?25l", "").replace("\x1b[?25h", "").splitlines()
        assert max(len(line.lstrip("\r")) for line in lines) <= 60


def test_a_backup_that_is_over_tells_its_size_and_its_time() -> None:
    assert figures(DONE, elapsed_seconds=99) == "1.0 GiB in 1m23s"


def test_a_backup_that_was_refused_before_it_began_has_no_figures() -> None:
    refused = VMBackupStatus(phase=Phase.DONE, outcome=Outcome.REFUSED)
    assert figures(refused, elapsed_seconds=3) == ""


def test_a_backup_that_nobody_has_taken_yet_is_shown_as_waiting() -> None:
    assert "Pending: waiting to be assigned" in shown(VMBackupStatus(), terminal=False)
