import fcntl
import struct
from pathlib import Path
from typing import Any

import pytest

from fakes.sample import OTHER_UID, UID, disk_of, run_of
from vmbackup.api import names
from vmbackup.api.journal import Run
from vmbackup.core.steps import MakeDirectory, RemoveOverlay
from vmbackup.errors import Failed
from vmbackup.store.directories import Directories


@pytest.fixture
def overlay(source: Path) -> Path:
    path = source.parent / names.overlay_name(UID, 1, "vda")
    path.write_bytes(b"x" * 8192)
    return path


def overlaid(location: Path, source: Path, overlay: Path) -> Run:
    return run_of(location, disk_of(source, overlay=str(overlay)))


def test_overlay_is_measured_and_removed(store: Directories, location: Path, source: Path, overlay: Path) -> None:
    run = overlaid(location, source, overlay)
    facts = store.observe(run)
    assert facts.overlay_bytes == {"vda": 8192}
    assert facts.overlay_free_bytes
    store.perform(run, RemoveOverlay("vda"))
    assert not overlay.exists()
    assert store.observe(run).overlay_bytes == {}


def test_overlay_that_is_gone_is_fine(store: Directories, location: Path, source: Path, overlay: Path) -> None:
    run = overlaid(location, source, overlay)
    overlay.unlink()
    store.perform(run, RemoveOverlay("vda"))


@pytest.mark.parametrize("name", ["vda.img", names.overlay_name(OTHER_UID, 1, "vda"), f"{UID}.overlay"])
def test_file_that_is_not_our_overlay_is_never_removed(
    store: Directories, location: Path, source: Path, name: str
) -> None:
    path = source.parent / name
    path.touch()
    with pytest.raises(Failed, match="does not carry the UID"):
        store.perform(overlaid(location, source, path), RemoveOverlay("vda"))
    assert path.exists()


@pytest.mark.parametrize("kind", [fcntl.F_RDLCK, fcntl.F_WRLCK])
def test_overlay_that_qemu_has_open_is_not_removed(
    store: Directories, location: Path, source: Path, overlay: Path, kind: int
) -> None:
    run = overlaid(location, source, overlay)
    with overlay.open("r+b") as opened:
        fcntl.fcntl(opened, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 203, 1, 0))
        with pytest.raises(Failed, match="another process has it open"):
            store.perform(run, RemoveOverlay("vda"))
    assert overlay.exists()
    store.perform(run, RemoveOverlay("vda"))
    assert not overlay.exists()


def test_link_in_place_of_the_overlay_is_not_removed(
    store: Directories, location: Path, source: Path, overlay: Path
) -> None:
    overlay.unlink()
    overlay.symlink_to(source)
    with pytest.raises(Failed, match="not a regular file"):
        store.perform(overlaid(location, source, overlay), RemoveOverlay("vda"))
    assert source.exists()


def test_overlay_that_cannot_be_looked_at_is_not_missing(
    store: Directories, location: Path, source: Path, overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str, **_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("vmbackup.store.overlays.os.lstat", refuse)
    assert "vda" in store.observe(overlaid(location, source, overlay)).overlay_bytes


def test_directory_for_overlays_of_block_devices_is_made(store: Directories, location: Path, source: Path) -> None:
    run = run_of(location, disk_of(source))
    overlay = f"{run.overlay_directory}/{names.overlay_name(UID, 1, 'vda')}"
    store.perform(run.with_disk("vda", overlay=overlay), MakeDirectory())
    assert Path(run.overlay_directory).stat().st_mode & 0o777 == 0o711


def test_without_overlays_nothing_is_said_of_their_space(store: Directories, run: Run) -> None:
    assert store.observe(run).overlay_free_bytes is None
