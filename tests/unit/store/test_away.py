"""Why a location cannot be used: what may pass is told apart from what nobody but its administrator can mend."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbackup.api.journal import Run
from vmbackup.store import directories as module
from vmbackup.store.asking import Asker
from vmbackup.store.directories import Directories


def test_missing_directory_may_be_mounted_later(store: Directories, run: Run, location: Path) -> None:
    location.rmdir()
    facts = store.observe(run)
    assert "does not exist on this node" in facts.problem
    assert (facts.passing, facts.silent) == (True, False)


@pytest.mark.parametrize("fault", ["file", "link"])
def test_file_or_link_in_its_place_stays(store: Directories, run: Run, location: Path, fault: str) -> None:
    location.rmdir()
    if fault == "file":
        location.touch()
    else:
        location.symlink_to("/")
    facts = store.observe(run)
    assert facts.problem
    assert not facts.passing


@pytest.mark.parametrize(
    ("code", "passing"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EHOSTDOWN, True), (errno.EACCES, False)]
)
def test_error_of_the_file_system_may_pass(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch, code: int, passing: bool
) -> None:
    def refuse(_path: str) -> Iterator[int]:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "location_directory", refuse)
    facts = store.observe(run)
    assert os.strerror(code) in facts.problem
    assert facts.passing is passing


def test_location_that_does_not_answer_is_silent_until_it_does(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    look = store._with_location
    monkeypatch.setattr(store, "_asker", Asker(answer_seconds=0.01))
    monkeypatch.setattr(store, "_with_location", lambda run, seen: answer.wait() and look(run, seen))
    facts = store.observe(run)
    assert (facts.silent, facts.passing) == (True, True)
    answer.set()
    for thread in [each for each in threading.enumerate() if each.name.startswith("ask ")]:
        thread.join()
    assert store.observe(run).problem == ""
