"""Retention beyond what restic knows: verified sets, broken ones, holds, locations; and the words that explain it."""

from collections.abc import Sequence
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.api.retention import KeepRules, Retention
from vmbackup.core.retention import BackupSet, Floor, Verdict, judge

NOON = 1_790_078_400.0  # 2026-09-22T12:00:00Z
DAY = 86400.0


def daily(count: int, **changes: dict[str, object]) -> list[BackupSet]:
    """Return one set a day at noon: d0 is the newest. changes: fields by the name of a set."""
    return [BackupSet(**{"name": f"d{n}", "at": NOON - n * DAY} | changes.get(f"d{n}", {})) for n in range(count)]


def kept(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.set.name for verdict in verdicts if verdict.keep]


def reasons(verdicts: Sequence[Verdict], name: str) -> str:
    return "; ".join(next(verdict.reasons for verdict in verdicts if verdict.set.name == name))


def test_every_verdict_says_why() -> None:
    verdicts = judge([*daily(4), BackupSet("morning", NOON - 3600)], Retention(keep_last=1, keep_daily=2))
    assert kept(verdicts) == ["d0", "d1"]
    assert (
        reasons(verdicts, "d0") == "last 1 of 1; daily 1 of 2: the newest of 2026-09-22; verified 1 of 1: never removed"
    )
    assert reasons(verdicts, "d1") == "daily 2 of 2: the newest of 2026-09-21"
    assert reasons(verdicts, "morning") == "last: 1 newer kept; daily: 2026-09-22 is kept by the newer d0"
    assert reasons(verdicts, "d2") == "last: 1 newer kept; daily: 2 newer kept"


def test_the_newest_verified_set_outlives_unverified_ones() -> None:
    """A week of sets that nobody has checked must not push out the last one that is known to be good."""
    sets = daily(5, **{f"d{n}": {"verified": False} for n in range(4)})
    verdicts = judge(sets, Retention(keep_last=2))
    assert kept(verdicts) == ["d0", "d1", "d4"]
    assert reasons(verdicts, "d4") == "verified 1 of 1: never removed"


def test_a_broken_set_takes_nobodys_place_and_is_not_removed_unasked() -> None:
    verdicts = judge(daily(4, d0={"broken": True}, d3={"broken": True}), Retention(keep_last=1))
    assert kept(verdicts) == ["d0", "d1", "d3"]
    assert "broken" in reasons(verdicts, "d0")


def test_what_is_held_or_in_use_stays() -> None:
    sets = daily(4, d2={"held": "held by annotation"}, d3={"in_use": "VMRestore web boots from it"})
    verdicts = judge(sets, Retention(keep_last=1))
    assert kept(verdicts) == ["d0", "d2", "d3"]
    assert reasons(verdicts, "d3") == "VMRestore web boots from it"


def test_a_location_keeps_more_than_the_schedule() -> None:
    verdicts = judge(daily(4), Retention(keep_last=1), [Floor("location nightly", KeepRules(keep_daily=3))])
    assert kept(verdicts) == ["d0", "d1", "d2"]
    assert reasons(verdicts, "d2") == "location nightly: daily 3 of 3: the newest of 2026-09-20"
    assert "location nightly: daily: 3 newer kept" in reasons(verdicts, "d3")


def test_a_location_alone_removes_nothing() -> None:
    assert kept(judge(daily(3), Retention(), [Floor("location nightly", KeepRules(keep_last=1))])) == ["d0", "d1", "d2"]


def test_days_begin_where_the_time_zone_says() -> None:
    sets = [
        BackupSet("evening", NOON + 9.5 * 3600),
        BackupSet("noon", NOON),
    ]  # 21:30Z is 23:30 in Berlin, next day in Kiritimati
    assert kept(judge(sets, Retention(keep_daily=5, time_zone="Europe/Berlin"))) == ["evening"]
    assert kept(judge(sets, Retention(keep_daily=5, time_zone="Asia/Tokyo"))) == ["evening", "noon"]


def test_an_unknown_time_zone_removes_nothing() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        judge(daily(3), Retention(keep_last=1, time_zone="Europe/Atlantis"))


histories = st.lists(
    st.builds(
        BackupSet,
        name=st.uuids().map(str),
        at=st.integers(0, 200).map(lambda hours: NOON - hours * 3600.0),
        verified=st.booleans(),
        broken=st.sampled_from((False, False, False, True)),
        held=st.sampled_from(("", "", "", "held")),
    ),
    max_size=30,
    unique_by=lambda one: one.name,
)
policies = st.builds(
    Retention, keep_last=st.integers(0, 3), keep_daily=st.integers(0, 3), min_verified=st.integers(0, 3)
)


@given(histories, policies)
def test_nothing_good_is_ever_lost(sets: list[BackupSet], retention: Retention) -> None:
    verdicts = judge(sets, retention)
    assert sorted(verdict.set.name for verdict in verdicts) == sorted(one.name for one in sets)
    gone = {verdict.set.name for verdict in verdicts if not verdict.keep}
    verified = sorted((one for one in sets if one.verified and not one.broken), key=lambda one: (-one.at, one.name))
    newest = sorted(verified, key=lambda one: (one.at, one.name), reverse=True)[: retention.min_verified]
    assert not gone & {one.name for one in newest}
    assert not gone & {one.name for one in sets if one.held or one.broken}
    assert all(verdict.reasons for verdict in verdicts)


@given(histories, policies)
def test_a_second_look_removes_nothing_more(sets: list[BackupSet], retention: Retention) -> None:
    left = [verdict.set for verdict in judge(sets, retention) if verdict.keep]
    assert all(verdict.keep for verdict in judge(left, retention))


@given(histories, policies)
def test_the_order_in_which_sets_are_listed_does_not_matter(sets: list[BackupSet], retention: Retention) -> None:
    assert judge(sets, retention) == judge(list(reversed(sets)), retention)
