import os
import threading
import time
from pathlib import Path

import pytest

from fakes.sample import disk_of, run_of
from vmbackup.core.steps import MakeDirectory
from vmbackup.errors import NotYet
from vmbackup.store.asking import Asker
from vmbackup.store.directories import Directories
from vmbackup.store.space import look, reserve_bytes


@pytest.mark.parametrize(
    ("min_free", "expected"), [("0", 0), ("0%", 0), ("5%", 50), ("99%", 990), ("10Gi", 10 << 30), ("4096", 4096)]
)
def test_reserve_in_percent_or_bytes(min_free: str, expected: int) -> None:
    assert reserve_bytes(min_free, 1000) == expected


def test_usable_location_tells_its_space(tmp_path: Path) -> None:
    space = look(str(tmp_path), "0")
    assert space.ready
    assert space.message == ""
    assert 0 < space.free_bytes < space.total_bytes


def test_location_below_its_reserve_warns(tmp_path: Path) -> None:
    space = look(str(tmp_path), "900P")
    assert space.ready
    assert "new backups are refused" in space.message


def test_missing_location_is_not_ready(tmp_path: Path) -> None:
    space = look(str(tmp_path / "away"), "5%")
    assert not space.ready
    assert "does not exist" in space.message


def test_run_sees_why_its_location_is_of_no_use(store: Directories, tmp_path: Path, source: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    facts = store.observe(run_of(tmp_path / "link", disk_of(source)))
    assert "is a link" in facts.problem
    assert not facts.partial
    assert not facts.published


def test_run_sees_the_reserve_of_its_location(store: Directories, location: Path, source: Path) -> None:
    facts = store.observe(run_of(location, disk_of(source), min_free="7Mi"))
    assert facts.problem == ""
    assert facts.reserve_bytes == 7 << 20
    assert facts.free_bytes > 0


def test_input_output_error_is_a_problem_in_words(
    store: Directories, location: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fstatvfs", refuse)
    problem = store.observe(run_of(location, disk_of(source))).problem
    assert problem.startswith(f"{location}: Input/output error")


def test_location_that_hangs_does_not_hold_up_the_way_home(
    store: Directories, location: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = source.parent / "overlay"
    overlay.write_bytes(b"x" * 4096)
    run = run_of(location, disk_of(source, overlay=str(overlay)))
    back = threading.Event()
    fstatvfs = os.fstatvfs

    def hang(file: int) -> os.statvfs_result:
        back.wait()
        return fstatvfs(file)

    monkeypatch.setattr("os.fstatvfs", hang)
    store._asker = Asker(answer_seconds=0.05)
    try:
        for _ in range(3):
            facts = store.observe(run)
            assert "has not answered" in facts.problem
            assert facts.overlay_bytes == {"vda": 4096}
        assert len([thread for thread in threading.enumerate() if thread.name == f"ask {location}"]) == 1
    finally:
        back.set()
    until = time.monotonic() + 10
    while store.observe(run).problem:
        assert time.monotonic() < until
    assert store.observe(run).free_bytes > 0


def test_other_paths_answer_while_one_hangs() -> None:
    asker = Asker(answer_seconds=0.05)
    back = threading.Event()
    with pytest.raises(NotYet):
        asker.ask("/dead", back.wait)
    assert asker.ask("/alive", lambda: 7) == 7
    back.set()


def test_many_runs_use_one_store(store: Directories, location: Path, source: Path) -> None:
    runs = [
        run_of(
            location, disk_of(source), uid=f"00000000-0000-4000-8000-{number:012}", set_path=f"team-a/vm{number}/set"
        )
        for number in range(8)
    ]
    failures: list[BaseException] = []

    def work(position: int) -> None:
        try:
            store.perform(runs[position], MakeDirectory())
            for _ in range(10):
                assert store.observe(runs[position]).partial
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(position,)) for position in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
