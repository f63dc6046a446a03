import errno
import os
import threading
from pathlib import Path

import pytest

from fakes.sample import disk_of, ended, partial_of, run_of
from vmbackup.api.journal import Run
from vmbackup.core.steps import MakeDirectory, StartCopy, StopWorks
from vmbackup.store.directories import Directories
from vmbackup.store.works import Task

MIB = 1024 * 1024


def copied(store: Directories, run: Run) -> Path:
    store.perform(run, MakeDirectory())
    store.perform(run, StartCopy("vda"))
    work = ended(store, run)
    assert work.state == "done", work.error
    return partial_of(run) / "vda.img"


def copy_error(store: Directories, run: Run) -> str:
    store.perform(run, StartCopy("vda"))
    work = ended(store, run)
    assert work.state == "failed"
    return work.error


def test_copy_is_equal_and_keeps_holes(store: Directories, run: Run, source: Path) -> None:
    with source.open("r+b") as stream:
        stream.seek(5 * MIB)
        stream.write(b"\xa5" * MIB)
    image = copied(store, run)
    assert image.read_bytes() == source.read_bytes()
    assert image.stat().st_blocks * 512 <= 2 * MIB + 65536
    assert image.stat().st_mode & 0o777 == 0o600


def test_disk_of_nothing_but_a_hole_is_copied(store: Directories, location: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.touch()
    os.truncate(empty, 4 * MIB)
    image = copied(store, run_of(location, disk_of(empty)))
    assert image.stat().st_size == 4 * MIB
    assert image.stat().st_blocks == 0


def test_two_file_systems_are_copied_between_by_hand(
    store: Directories, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.copy_file_range", refuse)
    image = copied(store, run)
    assert image.read_bytes() == source.read_bytes()
    assert image.stat().st_blocks * 512 <= MIB + 65536


def test_full_location_fails_the_copy_in_words(store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.perform(run, MakeDirectory())
    monkeypatch.setattr("os.copy_file_range", full)
    assert "No space left on device" in copy_error(store, run)


def test_base_that_shrinks_under_the_copy_fails_it(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.perform(run, MakeDirectory())
    monkeypatch.setattr("os.copy_file_range", lambda *_: 0)
    assert "truncated while it was copied" in copy_error(store, run)


def test_base_that_is_written_during_the_copy_fails_it(
    store: Directories, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.perform(run, MakeDirectory())
    move = os.copy_file_range

    def write_meanwhile(*arguments: int) -> int:
        os.utime(source, ns=(1, 1))
        return move(*arguments)

    monkeypatch.setattr("os.copy_file_range", write_meanwhile)
    assert f"{source} was written to while it was copied" in copy_error(store, run)


def test_unfinished_copy_of_an_earlier_process_is_begun_again(store: Directories, run: Run, source: Path) -> None:
    store.perform(run, MakeDirectory())
    (partial_of(run) / "vda.img").write_bytes(b"half")
    assert copied(store, run).read_bytes() == source.read_bytes()


def test_planted_link_is_replaced_and_not_written_through(store: Directories, run: Run, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    store.perform(run, MakeDirectory())
    (partial_of(run) / "vda.img").symlink_to(victim)
    assert not copied(store, run).is_symlink()
    assert victim.read_text() == "kept"


def test_stop_ends_a_running_copy_and_forgets_it(store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    store.perform(run, MakeDirectory())
    entered = threading.Event()
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"max_bytes_per_second": "1k"})})
    rest = Task.rest

    def note_rest(task: Task, seconds: float) -> None:
        entered.set()
        rest(task, seconds)

    monkeypatch.setattr(Task, "rest", note_rest)
    store.perform(run, StartCopy("vda"))
    assert entered.wait(10)
    assert store.observe(run).works["vda"].state == "running"
    store.perform(run, StopWorks())
    assert store.observe(run).works == {}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy ")]


def test_speed_limit_is_shared_by_the_disks(
    store: Directories, location: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[float] = []
    monkeypatch.setattr(Task, "rest", lambda _task, seconds: rested.append(seconds))
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    spec = {"max_bytes_per_second": "512Ki"}
    run = run_of(location, disk_of(source), disk_of(source, "vdb"), spec=spec)
    copied(store, run)
    assert rested == [1.0, 2.0, 3.0, 4.0]  # 1 MiB of data in pieces of 256 KiB, one per second


def test_speed_limit_below_one_byte_per_disk_is_still_a_limit(
    store: Directories, location: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[float] = []

    def note_and_stop(_task: Task, seconds: float) -> None:
        rested.append(seconds)
        raise OSError(errno.EINTR, "seen enough")

    monkeypatch.setattr(Task, "rest", note_and_stop)
    run = run_of(location, disk_of(source), disk_of(source, "vdb"), spec={"max_bytes_per_second": "1"})
    store.perform(run, MakeDirectory())
    assert "seen enough" in copy_error(store, run)
    assert len(rested) == 1


def test_second_start_leaves_the_running_copy_alone(
    store: Directories, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.perform(run, MakeDirectory())
    go_on = threading.Event()
    copies: list[int] = []
    move = os.copy_file_range

    def wait(*arguments: int) -> int:
        copies.append(1)
        assert go_on.wait(10)
        return move(*arguments)

    monkeypatch.setattr("os.copy_file_range", wait)
    store.perform(run, StartCopy("vda"))
    store.perform(run, StartCopy("vda"))
    go_on.set()
    assert ended(store, run).state == "done"
    assert copies == [1]


def test_next_attempt_does_not_see_works_of_the_one_before(store: Directories, run: Run) -> None:
    copied(store, run)
    assert store.observe(run.model_copy(update={"attempt": 2})).works == {}


def test_end_of_a_copy_wakes_the_worker(run: Run) -> None:
    woken = threading.Event()
    store = Directories(domain_xml=lambda _run: "<domain/>", wake=woken.set)
    copied(store, run)
    assert woken.wait(10)
