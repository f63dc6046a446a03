"""Where sets go and where they come from, for tests of the store: import the fixtures into a conftest.py."""

from pathlib import Path

import pytest

from fakes.sample import DOMAIN_XML
from vmbackup.store.directories import Directories


@pytest.fixture
def location(tmp_path: Path) -> Path:
    path = tmp_path / "location"
    path.mkdir()
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def store() -> Directories:
    return Directories(domain_xml=lambda _run: DOMAIN_XML, wake=lambda: None, node="node-1")
