"""The log: one line says one thing, whatever is in it, and what it is about."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest

from vmbackup.door.logs import JSONLines, Style, TextLines, about, also_about, log_to_stderr

HOSTILE = 'web\n2026-11-23T12:00:00+00:00 INFO    vmbackup.agent: forged\r\u2028\x1b[2Jx"}\n{"level":"info'
FIELDS = {"backup": "demo/web-1", "uid": "u-1", "vm": "web", "phase": "Copying"}

log = logging.getLogger("vmbackup.test")


class Stderr:
    """What the process has written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    @property
    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def last(self) -> dict[str, Any]:
        return dict(json.loads(self.lines[-1]))


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """Everything that log_to_stderr sets up is put back."""
    root = logging.getLogger()
    before, hooks = (root.handlers[:], root.level), (sys.excepthook, threading.excepthook)
    yield Stderr(capsys)
    root.handlers[:], root.level = before
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)
    for name in ("kopf", "kopf._core.reactor.running", "urllib3"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("style", "terminal", "is_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)
def test_programs_get_json_and_people_text(
    stderr: Stderr, monkeypatch: pytest.MonkeyPatch, style: Style, terminal: bool, is_json: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    log_to_stderr(style)
    log.info("hello")
    assert stderr.lines[-1].startswith("{") == is_json
    assert "hello" in stderr.lines[-1]


def test_line_says_what_it_is_about_whoever_writes_it(stderr: Stderr) -> None:
    log_to_stderr("json", node="n1")
    with about({"uid": "u-1"}):
        also_about(FIELDS)
        logging.getLogger("urllib3").error("from somebody else")
        assert {**FIELDS, "node": "n1"}.items() <= stderr.last.items()
    log.info("afterwards")
    assert set(stderr.last) == {"time", "level", "logger", "message", "node"}


def test_threads_do_not_mix_up_their_backups_and_hand_them_on_when_asked(stderr: Stderr) -> None:
    log_to_stderr("json")
    with about(FIELDS):
        for target, backup in ((log.info, None), (copy_context().run, "demo/web-1")):
            arguments = ("from a thread",) if backup is None else (log.info, "from a thread")
            thread = threading.Thread(target=target, args=arguments)
            thread.start()
            thread.join()
            assert stderr.last.get("backup") == backup


def test_line_of_kopf_about_a_backup_says_so(stderr: Stderr) -> None:
    log_to_stderr("json")
    reference = {"kind": "VMBackup", "namespace": "demo", "name": "b1", "uid": "u-9"}
    logging.getLogger("kopf.objects").error("kopf fails", extra={"k8s_ref": reference})
    assert (stderr.last["backup"], stderr.last["uid"]) == ("demo/b1", "u-9")
    logging.getLogger("kopf.objects").error("kopf fails", extra={"k8s_ref": {"kind": "Namespace", "name": "x"}})
    assert "backup" not in stderr.last


@pytest.mark.parametrize("style", ["json", "text"])
def test_name_with_a_newline_forges_no_line(stderr: Stderr, style: Style) -> None:
    log_to_stderr(style)
    log.warning("VM %s is away", HOSTILE, extra={"vm": HOSTILE, "backup": f"demo/{HOSTILE}"})
    assert len(stderr.lines) == 1
    assert stderr.text.count("\n") == 1
    assert "\x1b" not in stderr.text
    assert stderr.text.isascii()


def test_hostile_words_come_through_whole_in_json(stderr: Stderr) -> None:
    log_to_stderr("json")
    log.warning("%s", HOSTILE, extra={"vm": HOSTILE})
    assert (stderr.last["message"], stderr.last["vm"], stderr.last["level"]) == (HOSTILE, HOSTILE, "warning")


@pytest.mark.parametrize("style", ["json", "text"])
def test_traceback_with_a_newline_forges_no_line(stderr: Stderr, style: Style) -> None:
    log_to_stderr(style)
    try:
        {}[HOSTILE]
    except KeyError as error:
        error.add_note(HOSTILE)
        log.exception("a fault")
    starts = [line for line in stderr.lines if not line.startswith("    | ")]
    assert len(starts) == 1
    assert "KeyError" in stderr.text
    assert "\x1b" not in stderr.text


def test_text_does_not_say_twice_what_the_message_says(stderr: Stderr) -> None:
    log_to_stderr("text")
    log.info("demo/web-1: begins", extra=FIELDS)
    assert stderr.lines[-1].endswith(": demo/web-1: begins [uid=u-1 phase=Copying]")


@pytest.mark.parametrize("line", [JSONLines(""), TextLines("")])
def test_endless_message_is_cut_in_its_middle(line: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "begin %s end", ("a" * 1_000_000,), None)
    text = line.format(record)
    assert len(text) < 16 * 1024
    assert "begin" in text
    assert "end" in text


def test_what_nobody_caught_is_a_line_too(stderr: Stderr) -> None:
    log_to_stderr("json")

    def fault() -> None:
        raise RuntimeError("nobody caught it")

    thread = threading.Thread(target=fault, name="worker")
    thread.start()
    thread.join()
    assert (stderr.last["level"], stderr.last["message"]) == ("critical", "thread worker ended by a fault of ours")
    assert "RuntimeError: nobody caught it" in stderr.last["traceback"]
    assert len(stderr.lines) == 1


def test_end_of_a_program_is_no_fault(stderr: Stderr) -> None:
    log_to_stderr("json")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stderr.lines == []


def test_warning_of_python_is_a_line_too(stderr: Stderr) -> None:
    log_to_stderr("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "DeprecationWarning: old" in stderr.last["message"]


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_fields_that_are_no_text_are_left_out(stderr: Stderr, method: str) -> None:
    log_to_stderr("json")
    log.info("x", extra={"node": SimpleNamespace(), "vm": method})
    assert "node" not in stderr.last
    assert stderr.last["vm"] == method


AT_WORK = """
import sys, threading, time
from vmbackup.api.journal import Failure
from vmbackup.door.logs import end_process, log_to_stderr
import logging

def work():
    failure = Failure(reason="Interrupted", message="x" * 20_000)
    while True:
        Failure.model_validate_json(failure.model_dump_json())

log_to_stderr("json")
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
logging.getLogger("last").info("the last line")
end_process(3)
"""


def test_process_that_ends_while_its_threads_work_does_not_crash() -> None:
    """The interpreter's own end aborts threads that are in native code: one agent in twenty ended by SIGABRT."""
    for _ in range(4):
        ended = subprocess.run([sys.executable, "-c", AT_WORK], capture_output=True, text=True, check=False)
        assert ended.returncode == 3, ended.stderr
        assert "the last line" in ended.stderr
