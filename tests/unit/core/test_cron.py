"""Times of a cron expression, above all where clocks change."""

from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.core.cron import Timer


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next times, in UTC."""
    found = islice(Timer(expression, zone).after(at(after)), count)
    return [datetime.fromtimestamp(time, UTC).strftime("%m-%dT%H:%M") for time in found]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # Berlin, 29 March: 02:00 becomes 03:00. What is meant for the gap comes right after it, once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29T01:00", "03-30T00:30"]),
        ("0,30 2-3 * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29T01:00", "03-29T01:30", "03-30T00:00"]),
        # Berlin, 25 October: 03:00 becomes 02:00. What is meant for the doubled hour comes once, the first time.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25T00:30", "10-26T01:30"]),
        # Hourly jobs follow the real hours: none is left out, none is doubled.
        ("30 * * * *", "Europe/Berlin", "2026-10-24T23:00", ["10-24T23:30", "10-25T00:30", "10-25T01:30"]),
        ("30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["03-29T00:30", "03-29T01:30", "03-29T02:30"]),
        # Half an hour of summer time.
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["10-03T15:30", "10-04T15:00"]),
        # Midnight that does not exist.
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T00:00", ["04-23T22:00", "04-24T21:00"]),
    ],
)
def test_changes_of_clocks(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert times(expression, zone, after, len(expected)) == expected


def test_asked_within_the_doubled_hour_it_does_not_go_back() -> None:
    assert times("30 1 * * *", "Europe/London", "2026-10-25T01:10", 1) == ["10-26T01:30"]


@pytest.mark.parametrize(
    ("expression", "zone", "words"),
    [
        ("61 * * * *", "UTC", "minute"),
        ("0 0 31 2 *", "UTC", "day-of-month"),
        ("* * * * *", "Europe/Atlantis", "no Europe/Atlantis"),
        ("* * * * *", "Europe", "no Europe"),
        ("* * * * *", "../../etc/passwd", "no ../../etc/passwd"),
    ],
)
def test_what_is_no_time_is_told_in_words(expression: str, zone: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Timer(expression, zone)


FIELDS = (st.sampled_from(["*", "0", "30", "*/7", "5,35"]), st.sampled_from(["*", "2", "*/6", "1-3"]))
EXPRESSIONS = st.builds(
    lambda minute, hour, day, weekday: f"{minute} {hour} {day} * {weekday}",
    *FIELDS,
    st.sampled_from(["*", "1", "L", "15,31"]),
    st.sampled_from(["*", "MON-FRI", "5L"]),
)


@given(
    EXPRESSIONS,
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(0, 366 * 24 * 60).map(lambda minutes: at("2026-01-01T00:00") + minutes * 60 + 17),
)
def test_looking_back_finds_what_looking_forward_found(expression: str, zone: str, start: float) -> None:
    timer = Timer(expression, zone)
    found = list(islice(timer.after(start), 5))
    assert found == sorted(set(found))
    for time in found:
        assert timer.last(start, time) == time
        assert timer.last(start, time + 1) == time
    assert timer.last(start, found[0] - 1) is None
