"""Reading Markdown documents, and the files of the project: for test_docs.py."""

import contextlib
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Fence(NamedTuple):
    """A fenced block of a document."""

    language: str
    text: str


def fences(text: str) -> list[Fence]:
    return [Fence(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """Return what stands in backticks outside of fences."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands(text: str) -> Iterator[list[str]]:
    """Yield every command of a document as words, without comments, prompts and what a pipe does with it."""
    lines = [span.removeprefix("$ ") for span in spans(text)]
    for fence in fences(text):
        if fence.language in ("sh", "console"):
            joined = fence.text.replace("\\\n", " ")
            lines += [line.removeprefix("$ ").strip() for line in joined.splitlines()]
    for line in lines:
        with contextlib.suppress(ValueError):  # a span in backticks need not be a command
            for command in re.split(r"\s[|;]\s|&&", line):
                words = shlex.split(command, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                if words:
                    yield words


def sections(text: str) -> dict[str, str]:
    """Return the text below every heading of the second level."""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> list[list[str]]:
    """Return the cells of the first Markdown table, without its head."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tree() -> list[Path]:
    """Return all files of the project: what is generated on the way, or hidden, is none of it."""
    found: list[Path] = []
    for directory, folders, files in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in ("__pycache__", "dist")
            and not name.endswith(".egg-info")
            and name in (".ci", name.lstrip("."))
        ]
        found += [Path(directory) / name for name in files]
    return found
