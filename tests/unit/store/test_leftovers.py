"""Unfinished sets that no journal and no VMBackup knows are named, and nothing else is."""

import os
import time
from pathlib import Path

import pytest

from fakes.sample import UID
from vmbackup.store.leftovers import leftover_words

NAME = f".20261122T120000Z-nightly-0f8fad5b.{UID}.1.partial"
DAYS_AGO = time.time() - 3 * 86_400


def left(location: Path, name: str = NAME, *, image_at: float = DAYS_AGO) -> Path:
    path = location / "team-a" / "vm1" / name
    path.mkdir(parents=True)
    (path / "vda.img").write_bytes(b"half")
    os.utime(path / "vda.img", (image_at, image_at))
    os.utime(path, (DAYS_AGO, DAYS_AGO))
    return path


def test_set_that_nobody_has_finished_is_named_with_its_path(location: Path) -> None:
    path = left(location)
    assert str(path) in leftover_words(str(location), time.time())
    assert (path / "vda.img").exists()


def test_copy_that_runs_is_not_named(location: Path) -> None:
    left(location, image_at=time.time())
    assert leftover_words(str(location), time.time()) == ""


@pytest.mark.parametrize("name", ["20261122T120000Z-nightly-0f8fad5b", ".cache", f".{UID}.partial", ".x.y.1.partial"])
def test_what_is_not_ours_is_not_named(location: Path, name: str) -> None:
    left(location, name)
    assert leftover_words(str(location), time.time()) == ""


def test_links_are_not_followed(location: Path, tmp_path: Path) -> None:
    left(tmp_path / "elsewhere")
    (location / "team-a").symlink_to(tmp_path / "elsewhere" / "team-a")
    (location / "team-b").mkdir()
    (location / "team-b" / "vm1").symlink_to(tmp_path / "elsewhere" / "team-a" / "vm1")
    assert leftover_words(str(location), time.time()) == ""


def test_many_are_counted(location: Path) -> None:
    for number in range(5):
        left(location, NAME.replace(".1.partial", f".{number}.partial"))
    assert "and 2 more" in leftover_words(str(location), time.time())


def test_location_that_is_away_is_somebody_elses_to_tell(tmp_path: Path) -> None:
    assert leftover_words(str(tmp_path / "away"), time.time()) == ""
