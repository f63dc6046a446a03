import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.sample import disk_of, ended, partial_of, run_of
from integration.store.tools import held_open, qcow2, qemu_io, same_content
from vmbackup.api.journal import Run
from vmbackup.core.steps import Discard, MakeDirectory, StartCopy, StartVerification, StopWorks
from vmbackup.store import copying
from vmbackup.store.directories import Directories

MIB = 1024 * 1024
Mount = Callable[[str, str], Path]


def copied(store: Directories, run: Run) -> Path:
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    work = ended(store, run)
    assert work.state == "done", work.error
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert work.state == "done", work.error
    return partial_of(run) / run.disks[0].image


def copy_error(store: Directories, run: Run) -> str:
    store.perform(run, StartCopy("vda"))
    work = ended(store, run)
    assert work.state == "failed"
    return work.error


def raw(path: Path, data_bytes: int, size_bytes: int) -> Path:
    path.write_bytes(os.urandom(data_bytes))
    os.truncate(path, size_bytes)
    return path


def chain(images: Path, size: str = "64M") -> tuple[Path, Path]:
    golden = qcow2(images / "golden.qcow2", size, "write -P 1 0 8M")
    return golden, qcow2(images / "vda.qcow2", size, "write -P 2 4M 8M", backing=golden)


def child_of(store: Directories) -> int:
    """Wait until the copy has a child process, and return its id."""
    until = time.monotonic() + 30
    while True:
        for task in store._works._tasks.values():
            if task.process is not None:
                return task.process.pid
        assert time.monotonic() < until, "no child process was started"
        time.sleep(0.005)


def slow(location: Path, images: Path) -> Run:
    """Return a run whose copy takes long: a chain, and a limit of 1 MiB per second."""
    golden, top = chain(images)
    disk = disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=64 * MIB)
    return run_of(location, disk, spec={"max_bytes_per_second": "1Mi"})


# -- what comes out ---------------------------------------------------------------------------------------------


def test_gigabyte_of_holes_stays_holes(store: Directories, location: Path, images: Path) -> None:
    source = raw(images / "vda.img", 3 * MIB, 1024 * MIB)
    image = copied(store, run_of(location, disk_of(source)))
    assert image.stat().st_size == 1024 * MIB
    assert image.stat().st_blocks * 512 < 4 * MIB
    assert same_content(source, "raw", image, "raw")


def test_qcow2_is_copied_and_stays_sparse(store: Directories, location: Path, images: Path) -> None:
    source = qcow2(images / "vda.qcow2", "1G", "write -P 7 0 2M", "write -P 8 900M 2M")
    image = copied(store, run_of(location, disk_of(source, format_="qcow2", virtual_bytes=1024 * MIB)))
    assert same_content(source, "qcow2", image, "qcow2")
    assert image.stat().st_blocks * 512 < 6 * MIB


def test_copy_from_one_file_system_to_another(store: Directories, images: Path, mount: Mount) -> None:
    source = raw(images / "vda.img", 3 * MIB, 64 * MIB)
    image = copied(store, run_of(mount("ext4", "64M"), disk_of(source), min_free="0"))
    assert image.read_bytes() == source.read_bytes()
    assert image.stat().st_blocks * 512 < 4 * MIB


def test_clone_takes_no_space_and_stands_still(store: Directories, mount: Mount) -> None:
    xfs = mount("xfs", "400M")
    (xfs / "images").mkdir()
    (xfs / "location").mkdir()
    source = raw(xfs / "images" / "vda.img", 64 * MIB, 128 * MIB)
    os.sync()
    before = os.statvfs(xfs)
    digest = hashlib.sha256(source.read_bytes()).digest()
    image = copied(store, run_of(xfs / "location", disk_of(source)))
    assert (before.f_bavail - os.statvfs(xfs).f_bavail) * before.f_frsize < 8 * MIB
    with source.open("r+b") as stream:
        stream.write(b"later" * 1000)
    assert hashlib.sha256(image.read_bytes()).digest() == digest


def test_golden_image_is_flattened_and_never_written(store: Directories, location: Path, images: Path) -> None:
    golden, top = chain(images)
    digest = hashlib.sha256(golden.read_bytes()).digest()
    disk = disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=64 * MIB)
    image = copied(store, run_of(location, disk))
    assert same_content(top, "qcow2", image, "qcow2")
    golden.rename(images / "away.qcow2")
    qemu_io(image, "read -P 1 0 4M", "read -P 2 4M 8M")
    assert hashlib.sha256((images / "away.qcow2").read_bytes()).digest() == digest


def test_chain_of_three_with_a_raw_bottom(store: Directories, location: Path, images: Path) -> None:
    bottom = raw(images / "bottom.img", MIB, 16 * MIB)
    middle, top = images / "middle.qcow2", images / "top.qcow2"
    for path, below, format_ in ((middle, bottom, "raw"), (top, middle, "qcow2")):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below.name, "-F", format_, path], check=True, cwd=images
        )
    qemu_io(top, "write -P 3 8M 1M")
    disk = disk_of(top, format_="qcow2", backing=(str(middle), str(bottom)), virtual_bytes=16 * MIB)
    image = copied(store, run_of(location, disk))
    assert same_content(top, "qcow2", image, "qcow2")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_block_device_is_copied(
    store: Directories, location: Path, images: Path, loop: Callable[[Path], Path], image_format: str
) -> None:
    device = loop(raw(images / "lun", 5 * MIB, 32 * MIB))
    disk = disk_of(
        device, source_kind="block", image=f"vda.{image_format}", image_format=image_format, virtual_bytes=32 * MIB
    )
    image = copied(store, run_of(location, disk))
    assert same_content(images / "lun", "raw", image, image_format)
    assert image.stat().st_blocks * 512 < 7 * MIB


def test_block_device_by_the_link_that_udev_made(
    store: Directories, location: Path, images: Path, loop: Callable[[Path], Path]
) -> None:
    link = Path(f"/dev/vmbackup-test-{os.getpid()}")
    link.symlink_to(loop(raw(images / "lun", MIB, 4 * MIB)))
    try:
        disk = disk_of(link, source_kind="block", virtual_bytes=4 * MIB)
        assert same_content(images / "lun", "raw", copied(store, run_of(location, disk)), "raw")
    finally:
        link.unlink()


# -- what goes wrong --------------------------------------------------------------------------------------------


def test_full_location_fails_the_copy_and_is_left_clean(store: Directories, images: Path, mount: Mount) -> None:
    location = mount("ext4", "32M")
    run = run_of(location, disk_of(raw(images / "vda.img", 48 * MIB, 64 * MIB)))
    store.perform(run, MakeDirectory())
    before = store.observe(run).free_bytes
    assert "No space left on device" in copy_error(store, run)
    assert store.observe(run).free_bytes < MIB
    store.perform(run, Discard())
    assert not partial_of(run).exists()
    assert store.observe(run).free_bytes >= before


def test_full_location_fails_the_conversion_in_words_of_qemu(store: Directories, images: Path, mount: Mount) -> None:
    golden = qcow2(images / "golden.qcow2", "64M", "write -P 1 0 60M")
    top = qcow2(images / "vda.qcow2", "64M", "write -P 2 0 1M", backing=golden)
    disk = disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=64 * MIB)
    run = run_of(mount("ext4", "32M"), disk)
    store.perform(run, MakeDirectory())
    error = copy_error(store, run)
    assert str(top) in error
    assert "No space left on device" in error


def test_killed_child_is_a_failed_copy(store: Directories, location: Path, images: Path) -> None:
    run = slow(location, images)
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    os.kill(child_of(store), signal.SIGKILL)
    work = ended(store, run)
    assert work.state == "failed"
    assert "qemu-img was ended by signal 9 (Killed)" in work.error


def test_stopped_copy_leaves_no_child(store: Directories, location: Path, images: Path) -> None:
    run = slow(location, images)
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    child = child_of(store)
    store.perform(run, StopWorks())
    assert store.observe(run).works == {}
    assert not Path(f"/proc/{child}").exists()


def test_child_dies_with_the_agent(location: Path, images: Path) -> None:
    run = slow(location, images)
    program = (
        "import sys, time\n"
        "from integration.store.test_copying import child_of, MakeDirectory, StartCopy, Directories, Run\n"
        "store = Directories(domain_xml=lambda run: '<domain/>', wake=lambda: None)\n"
        "run = Run.model_validate_json(sys.stdin.read())\n"
        "store.perform(run, MakeDirectory())\n"
        "store.perform(run, StartCopy('vda'))\n"
        "print(child_of(store), flush=True)\n"
        "time.sleep(600)\n"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(run.model_dump_json())
        agent.stdin.close()
        child = int(agent.stdout.readline())
        agent.kill()
    until = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < until, "qemu-img outlived the agent"
        time.sleep(0.01)


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("plain", [True, False])
def test_base_that_a_vm_has_open_for_writing_is_not_copied(
    store: Directories, location: Path, images: Path, plain: bool
) -> None:
    golden, top = chain(images)
    source, backing = (golden, ()) if plain else (top, (str(golden),))
    run = run_of(location, disk_of(source, format_="qcow2", backing=backing, virtual_bytes=64 * MIB))
    store.perform(run, MakeDirectory())
    with held_open(source):
        assert "open for writing in another process" in copy_error(store, run)


def test_golden_image_that_somebody_writes_fails_the_copy(store: Directories, location: Path, images: Path) -> None:
    golden, top = chain(images)
    run = run_of(location, disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=64 * MIB))
    store.perform(run, MakeDirectory())
    with held_open(golden):
        assert f"{golden} is open for writing in another process" in copy_error(store, run)


def test_lock_that_qemu_cannot_get_fails_the_copy(
    store: Directories, location: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, top = chain(images)
    run = run_of(location, disk_of(top, format_="qcow2", backing=(str(golden),), virtual_bytes=64 * MIB))
    store.perform(run, MakeDirectory())
    monkeypatch.setattr(copying, "is_written", lambda _file: False)
    with held_open(golden):
        error = copy_error(store, run)
    assert 'Failed to get shared "write" lock' in error
    assert f"[{golden}]" in error
