import os
import struct
from pathlib import Path

import pytest

from fakes.sample import disk_of, ended, partial_of, run_of
from integration.store.tools import held_open, qcow2
from vmbackup.api.journal import Run
from vmbackup.core.steps import MakeDirectory, StartVerification
from vmbackup.store.directories import Directories

MIB = 1024 * 1024


@pytest.fixture
def run(store: Directories, location: Path, images: Path) -> Run:
    """A run whose image was pushed by QEMU: it is in the working directory already."""
    disk = disk_of(images / "vda.qcow2", format_="qcow2", virtual_bytes=64 * MIB)
    run = run_of(location, disk, method="Push")
    store.perform(run, MakeDirectory())
    return run


def image_of(run: Run) -> Path:
    return partial_of(run) / "vda.qcow2"


def verify_error(store: Directories, run: Run) -> str:
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "failed"
    return work.error


def test_whole_image_passes(store: Directories, run: Run) -> None:
    image = qcow2(image_of(run), "64M", "write -P 1 0 4M")
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "done", work.error
    assert work.stored_bytes == image.stat().st_blocks * 512


def test_image_that_qemu_still_writes_is_waited_for(store: Directories, run: Run) -> None:
    image = qcow2(image_of(run), "64M")
    with held_open(image):
        store.perform(run, StartVerification("vda"))
        facts = store.observe(run)
        assert facts.open_images == {"vda"}
        assert facts.works["vda"].state == "running"
    assert ended(store, run).state == "done"


def test_corrupt_image_fails(store: Directories, run: Run) -> None:
    image = qcow2(image_of(run), "64M", "write -P 1 0 4M")
    with image.open("r+b") as stream:
        stream.seek(40)  # l1_table_offset
        table = struct.unpack(">Q", stream.read(8))[0]
        stream.seek(table)
        stream.write(struct.pack(">Q", 0x8000_0000_7FFF_0000))  # an L2 table far behind the end
    assert "qemu-img check found" in verify_error(store, run)


def test_image_cut_short_fails(store: Directories, run: Run) -> None:
    image = qcow2(image_of(run), "64M", "write -P 1 0 4M")
    os.truncate(image, 2 * MIB)
    assert "qemu-img check" in verify_error(store, run)


def test_leaked_cluster_is_no_fault(store: Directories, run: Run) -> None:
    image = qcow2(image_of(run), "64M", "write -P 1 0 4M")
    with image.open("r+b") as stream:
        stream.seek(48)  # refcount_table_offset
        table = struct.unpack(">Q", stream.read(8))[0]
        stream.seek(table)
        block = struct.unpack(">Q", stream.read(8))[0]
        clusters = (stream.seek(0, 2) + 65535) // 65536
        stream.seek(block + 2 * clusters)
        stream.write(struct.pack(">H", 1))
        stream.truncate((clusters + 1) * 65536)
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "done", work.error


def test_image_of_another_size_fails(store: Directories, run: Run) -> None:
    qcow2(image_of(run), "32M")
    assert "it holds 32.0 MiB (33554432 bytes), the disk 67108864" in verify_error(store, run)


def test_image_that_refers_to_another_file_fails(store: Directories, run: Run, images: Path) -> None:
    qcow2(image_of(run), "64M", backing=qcow2(images / "below.qcow2", "64M"))
    assert "refers to another file" in verify_error(store, run)


def test_checker_that_talks_without_end_is_ended(
    store: Directories, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qcow2(image_of(run), "64M")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qemu-img").write_text("#!/bin/sh\nexec yes corrupt\n")
    (tmp_path / "bin" / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert "qemu-img was ended by signal 25" in verify_error(store, run)


def test_missing_qemu_img_is_said(
    store: Directories, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qcow2(image_of(run), "64M")
    (tmp_path / "bin").mkdir()
    for tool in ("prlimit", "setpriv"):
        (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "qemu-img: No such file or directory" in verify_error(store, run)
