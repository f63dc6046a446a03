import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path

import pytest

from fakes.sample import disk_of, ended, partial_of, run_of
from vmbackup.api.journal import Run
from vmbackup.core.steps import MakeDirectory, StartVerification, StopWorks
from vmbackup.store import verifying
from vmbackup.store.directories import Directories


@pytest.fixture
def image(store: Directories, run: Run) -> Path:
    """An image as QEMU has left it."""
    store.perform(run, MakeDirectory())
    path = partial_of(run) / "vda.img"
    path.write_bytes(b"\x5a" * (1 << 20))
    os.truncate(path, 8 << 20)
    return path


def lock(file: object, kind: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 100, 2, 0))  # type: ignore[call-overload]


def verify_error(store: Directories, run: Run) -> str:
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "failed"
    return work.error


def with_verify(run: Run, verify: str) -> Run:
    return Run.model_validate(run.model_dump() | {"spec": run.spec.model_dump() | {"verify": verify}})


@pytest.mark.parametrize("verify", ["None", "Check", "Checksum"])
def test_whole_image_is_verified(store: Directories, run: Run, image: Path, verify: str) -> None:
    run = with_verify(run, verify)
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "done"
    assert work.stored_bytes == image.stat().st_blocks * 512
    assert work.sha256 == (hashlib.sha256(image.read_bytes()).hexdigest() if verify == "Checksum" else "")


def test_image_of_another_size_fails(store: Directories, run: Run, image: Path) -> None:
    os.truncate(image, 7 << 20)
    assert "vda.img: it holds 7.0 MiB (7340032 bytes), the disk 8388608" in verify_error(store, run)


def test_raw_disk_that_ends_within_a_sector_is_whole(store: Directories, run: Run, image: Path) -> None:
    os.truncate(image, (8 << 20) - 100)  # QEMU shows the guest whole sectors
    store.perform(run, StartVerification("vda"))
    assert ended(store, run).state == "done"


def test_missing_image_fails(store: Directories, run: Run, image: Path) -> None:
    image.unlink()
    assert f"{run.location_path}: No such file or directory" in verify_error(store, run)


def test_image_that_cannot_be_read_fails(
    store: Directories, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.pread", refuse)
    assert "Input/output error" in verify_error(store, with_verify(run, "Checksum"))


def test_image_that_cannot_be_synced_fails(
    store: Directories, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", refuse)
    assert "Input/output error" in verify_error(store, run)


def test_verification_waits_until_qemu_has_closed_the_image(store: Directories, run: Run, image: Path) -> None:
    with image.open("r+b") as writer:
        lock(writer, fcntl.F_RDLCK)
        store.perform(run, StartVerification("vda"))
        facts = store.observe(run)
        assert facts.open_images == {"vda"}
        assert facts.works["vda"].state == "running"
    assert ended(store, run).state == "done"
    assert store.observe(run).open_images == frozenset()


def test_image_that_is_never_closed_fails(
    store: Directories, run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "UNLOCK_SECONDS", 0.0)
    with image.open("r+b") as writer:
        lock(writer, fcntl.F_RDLCK)
        assert "another process still has it open" in verify_error(store, run)


def test_waiting_verification_can_be_stopped(store: Directories, run: Run, image: Path) -> None:
    with image.open("r+b") as writer:
        lock(writer, fcntl.F_RDLCK)
        store.perform(run, StartVerification("vda"))
        store.perform(run, StopWorks())
        assert store.observe(run).works == {}


def test_qcow2_image_that_is_none_fails(store: Directories, location: Path, source: Path) -> None:
    run = run_of(location, disk_of(source, image="vda.qcow2", image_format="qcow2"))
    store.perform(run, MakeDirectory())
    (partial_of(run) / "vda.qcow2").write_bytes(b"x" * 65536)
    assert "does not begin as a qcow2 image" in verify_error(store, run)
