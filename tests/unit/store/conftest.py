from pathlib import Path

import pytest

from fakes.places import location, store
from fakes.sample import disk_of, run_of
from vmbackup.api.journal import Run

__all__ = ["location", "store"]

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A raw disk of 8 MiB with data at the front and a hole behind."""
    path = tmp_path / "images" / "vda.img"
    path.parent.mkdir()
    with path.open("wb") as stream:
        stream.write(b"\x5a" * MIB)
        stream.truncate(8 * MIB)
    return path


@pytest.fixture
def run(location: Path, source: Path) -> Run:
    return run_of(location, disk_of(source), min_free="0")
