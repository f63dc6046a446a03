"""What goes wrong in a copy's own thread is logged as part of its backup."""

import json
import logging

import pytest

from fakes.sample import disk_of, run_of
from fakes.waiting import eventually
from vmbackup.door.logs import JSONLines, about, of_run
from vmbackup.store.works import Result, Task, Works


def test_fault_in_a_copy_says_which_backup_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[dict[str, str]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JSONLines("n1").format(record)))

    def body(_: Task) -> Result:
        raise RuntimeError("a fault of ours")

    handler, log = Lines(), logging.getLogger("vmbackup")
    log.addHandler(handler)
    try:
        run = run_of("/backups", disk_of("/images/vda"))
        with about(of_run(run)):
            Works(lambda: None).start(run, "vda", "copy", body)
        eventually(lambda: "ended by a fault" in caplog.text, "the fault is logged, by the root's handler last")
    finally:
        log.removeHandler(handler)
    assert {**of_run(run), "node": "n1"}.items() <= lines[0].items()
    assert "a fault of ours" in lines[0]["traceback"]
