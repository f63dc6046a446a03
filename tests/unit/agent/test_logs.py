"""Every line about a backup says which, whoever of the agent's parts writes it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fakes.apiserver import failing
from vmbackup.cluster.errors import APIServerAway
from vmbackup.door.logs import JSONLines

UID = "7b0f3c51-0000-4000-8000-000000000001"


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JSONLines("n1"))
        self.seen: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, log = Lines(), logging.getLogger("vmbackup")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


def about_it(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines.seen if "team-a/b1" in line["message"] or UID in line["message"]]


@pytest.mark.parametrize("method", ["Push", "Snapshot"])
def test_line_about_a_backup_carries_backup_uid_vm_node_and_phase(desk: Any, lines: Lines, method: str) -> None:
    desk.hear(desk.bind(spec={"method": method}))
    desk.until_over()
    found = about_it(lines)
    assert len(found) > 4
    who = {"backup": "team-a/b1", "uid": UID, "vm": "web", "node": "n1"}
    assert [line for line in found if not who.items() <= line.items()] == []
    phases = [line["phase"] for line in found]
    assert phases[-1] == "Done"
    assert {"Preparing", "Copying", "Verifying", "Publishing"} <= set(phases)


def test_trouble_with_the_status_says_whose_it_is(desk: Any, lines: Lines) -> None:
    backup = desk.bind()
    desk.hear(backup)
    desk.server.trouble = failing(3, APIServerAway("connection refused"), "PATCH")
    desk.until_over()
    unsent = [line for line in lines.seen if "status not sent" in line["message"]]
    assert all(line["backup"] == "team-a/b1" and line["uid"] == UID for line in unsent)
    assert unsent or [line for line in lines.seen if "waits" in line["message"]]
