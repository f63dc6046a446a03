"""Speed as people expect it: steady, current, and honest about a new start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.core.progress import Pace

MIB = 1024**2


def test_a_steady_copy_shows_its_speed() -> None:
    pace = Pace(0.0, 0)
    for second in range(1, 10):
        pace = pace.next(second * 100 * MIB, float(second))
    assert pace.bytes_per_second == pytest.approx(100 * MIB)


def test_a_stall_shows_within_half_a_minute() -> None:
    pace = Pace(0.0, 0).next(100 * MIB, 1.0)
    for second in range(2, 32):
        pace = pace.next(100 * MIB, float(second))
    assert pace.bytes_per_second is not None
    assert pace.bytes_per_second < 6 * MIB


def test_one_slow_second_does_not_make_it_jump() -> None:
    pace = Pace(0.0, 0).next(100 * MIB, 1.0).next(100 * MIB, 2.0)
    assert pace.bytes_per_second is not None
    assert pace.bytes_per_second > 90 * MIB


def test_a_new_attempt_starts_over() -> None:
    pace = Pace(0.0, 0).next(100 * MIB, 1.0).next(0, 2.0)
    assert pace.bytes_per_second is None


def test_a_clock_that_stands_still_or_jumps_back_divides_nothing_by_zero() -> None:
    pace = Pace(10.0, 0)
    assert pace.next(5, 10.0) == pace
    assert pace.next(5, 3.0) == pace


@given(st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, 10**12)), min_size=2, max_size=30))
def test_the_smoothed_speed_lies_between_what_was_measured(steps: list[tuple[float, int]]) -> None:
    at, done, pace = 0.0, 0, Pace(0.0, 0)
    measured = []
    for elapsed, copied in steps:
        at, done = at + elapsed, done + copied
        measured.append(copied / (at - pace.at))
        pace = pace.next(done, at)
    assert pace.bytes_per_second is not None
    assert min(measured) * 0.999 <= pace.bytes_per_second <= max(measured) * 1.001
