"""The guard of a freeze: it thaws when the one who froze the guest is dead or hangs, and only then."""

import os
from collections.abc import Iterator

import pytest

from vmbackup.hypervisor import guard


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        try:
            os.close(end)
        except OSError:
            continue  # the test has closed it


def test_word_says_that_the_guest_is_thawed(pipe: tuple[int, int]) -> None:
    tried: list[bool] = []
    os.write(pipe[1], b"thawed\n")
    guard.watch(pipe[0], 60.0, lambda: tried.append(True) or True)
    assert not tried


def test_death_of_the_one_who_froze_is_followed_by_a_thaw_at_once(pipe: tuple[int, int]) -> None:
    tried: list[bool] = []
    os.close(pipe[1])
    guard.watch(pipe[0], 60.0, lambda: tried.append(True) or True)
    assert tried == [True]


def test_silence_past_the_limit_is_followed_by_a_thaw(pipe: tuple[int, int]) -> None:
    tried: list[bool] = []
    guard.watch(pipe[0], 0.01, lambda: tried.append(True) or True)
    assert tried == [True]


def test_thaw_that_fails_is_tried_again(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "TRY_AGAIN_SECONDS", 0.001)
    answers = iter([False, False, True])
    os.close(pipe[1])
    guard.watch(pipe[0], 60.0, lambda: next(answers))
    assert next(answers, None) is None
