"""Files of a host and images that are made to get at them."""

from pathlib import Path

import pytest

from fakes.places import images, location, store

__all__ = ["images", "location", "store"]

SECRET = b"root:$6$the-host-file-that-nobody-may-see:20000:0:99999:7:::\n"


@pytest.fixture
def shadow(tmp_path: Path) -> Path:
    """A file of the host's that only root may read."""
    path = tmp_path / "shadow"
    path.write_bytes(SECRET * 100)
    path.chmod(0o600)
    return path


def secrets_in(place: Path) -> list[Path]:
    """Return the files below a place that hold the host's secret."""
    return [path for path in place.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
