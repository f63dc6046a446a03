"""How the processes log: one line each to standard error, as JSON or for people, with what it is about.

Whoever works on a backup says so once, with `about`; every line of that thread then carries it, whoever writes it.
A line is one line whatever is in it: a VM's name or an answer of libvirt's cannot forge another.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Literal, NoReturn

from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import VMBackup

Style = Literal["auto", "text", "json"]
FIELDS = ("backup", "uid", "vm", "node", "phase")
LONGEST_TEXT = 6000  # a message and a traceback stay below the 16 KiB where container runtimes cut a line in two

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(fields: Mapping[str, str]) -> Iterator[None]:
    """Give every line of this thread these fields (of FIELDS), until the end of the block."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def also_about(fields: Mapping[str, str]) -> None:
    """Give them to every line until the end of the block of `about` that this is in."""
    _about.set({**_about.get(), **fields})


def of_run(run: Run) -> dict[str, str]:
    """Return the fields of a run."""
    return {"backup": run.key, "uid": run.uid, "vm": run.vm, "phase": str(run.phase)}


def of_backup(backup: VMBackup) -> dict[str, str]:
    """Return the fields of a VMBackup."""
    node = {"node": backup.status.node} if backup.status.node else {}
    vm, phase = backup.spec.source.name, str(backup.status.phase)
    return {"backup": backup.key, "uid": backup.metadata.uid, "vm": vm, "phase": phase} | node


def log_to_stderr(style: Style = "auto", *, node: str = "") -> None:
    """Set logging up for the process. auto: text on a terminal, else JSON. node: what every line carries."""
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler()
    handler.setFormatter(TextLines(node) if as_text else JSONLines(node))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # "signals are ignored": they are ours
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    sys.excepthook = _log_last_words
    threading.excepthook = lambda end: _log_last_words(end.exc_type, end.exc_value, end.exc_traceback)


def end_process(code: int) -> NoReturn:
    """End the process at once, with all lines written.

    The interpreter's own end stops the threads that still work wherever they are; in native code (seen in pydantic's,
    "FATAL: exception not rethrown") that aborts the process, and an orderly end looks like a crash.
    """
    logging.shutdown()
    os._exit(code)


def _log_last_words(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    """Log what nobody caught as every other line."""
    if not issubclass(kind, SystemExit | KeyboardInterrupt):
        name = threading.current_thread().name
        logging.getLogger(__name__).critical("thread %s ended by a fault of ours", name, exc_info=error)


class _Lines(logging.Formatter):
    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        """Return what the line is about: said with the line, by kopf, or for the thread."""
        said = {name: value for name in FIELDS if isinstance(value := record.__dict__.get(name), str)}
        known = {"node": self._node} | dict(_about.get()) | _of_kopf(record) | said
        return {name: known[name] for name in FIELDS if known.get(name)}

    def traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""


class JSONLines(_Lines):
    """One JSON object a line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
            **self.fields(record),
        }
        if traceback := self.traceback(record):
            line["traceback"] = _cut(traceback)
        return json.dumps(line)


class TextLines(_Lines):
    """For people: what the message does not say already stands at its end. Lines of a traceback are indented."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        message = _plain(_cut(record.getMessage()))
        rest = [f"{name}={_plain(value)}" for name, value in self.fields(record).items() if value not in message]
        end = f" [{' '.join(rest)}]" if rest else ""
        lines = [f"{at} {record.levelname:7} {record.name}: {message}{end}"]
        lines += [f"    | {_plain(line)}" for line in self.traceback(record).splitlines()]
        return "\n".join(lines)


def _of_kopf(record: logging.LogRecord) -> dict[str, str]:
    """Return what kopf says that its line is about."""
    object_: Any = record.__dict__.get("k8s_ref")
    if not isinstance(object_, Mapping) or object_.get("kind") != "VMBackup":
        return {}
    return {"backup": f"{object_.get('namespace')}/{object_.get('name')}", "uid": str(object_.get("uid") or "")}


def _cut(text: str) -> str:
    """Return the text, without its middle when it is too long: what happened stands at the ends."""
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


def _plain(text: str) -> str:
    """Return the text with everything escaped that a terminal or a reader of lines would take for a command."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
