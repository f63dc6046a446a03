"""What a child may use: an image that takes qemu-img over is held by the kernel, not by qemu-img."""

import sys
from pathlib import Path

import pytest

from vmbackup.store.children import OUTPUT_BYTES_MAX, WORDS_BYTES_MAX, Ended, Limits, run_child
from vmbackup.units import GIB, MIB


def run(program: str, **limits: int) -> Ended:
    return run_child([sys.executable, "-I", "-c", program], limits=Limits(**limits), started=lambda _process: None)


def test_memory_ends_at_the_limit() -> None:
    ended = run(f"bytearray({2 * GIB})", address_space_bytes=GIB)
    assert ended.code != 0
    assert "MemoryError" in ended.last_words


def test_there_is_a_limit_of_memory_where_nobody_has_set_one() -> None:
    assert "MemoryError" in run(f"bytearray({16 * GIB})").last_words


def test_time_ends_at_the_limit() -> None:
    assert "was ended by signal" in run("while True: pass", cpu_seconds=1).error


def test_output_and_words_are_cut() -> None:
    ended = run(f"import sys; sys.stderr.write('w' * {MIB}); sys.stdout.write('o' * {2 * OUTPUT_BYTES_MAX})")
    assert len(ended.output) == OUTPUT_BYTES_MAX
    assert len(ended.last_words) <= WORDS_BYTES_MAX


def test_file_ends_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "full"
    ended = run(f"open({str(path)!r}, 'wb').write(bytes({2 * MIB}))", file_bytes=MIB)
    assert ended.code != 0
    assert path.stat().st_size <= MIB


def test_child_inherits_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "hunter2")
    assert run("import os; print(*sorted(os.environ))").output.decode().split() == ["LANG", "LC_ALL", "PATH"]


def test_child_has_no_descriptor_that_it_was_not_given(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        ended = run(f"import os; os.fstat({secret.fileno()})")
    assert "Bad file descriptor" in ended.last_words


def test_what_it_makes_is_for_nobody_else(tmp_path: Path) -> None:
    run(f"open({str(tmp_path / 'made')!r}, 'w')")
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o600
