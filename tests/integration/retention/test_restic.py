"""Retention agrees with restic on thousands of random histories."""

import random
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.retention.repository import Repository
from vmbackup.api.retention import Retention
from vmbackup.core.retention import BackupSet, judge

HISTORIES = 60  # judged by one call of restic
EXAMPLES = 100
LONGEST = 30
HOLD = "hold"
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
# Around changes of clocks, of the ISO year and of a leap year; the spans make all rules meet.
STARTS = tuple(
    datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    for text in ("2026-03-28", "2026-10-24", "2026-12-27", "2020-12-31", "2024-02-28", "2026-03-07")
)
SPANS_SECONDS = (3 * 3600, 2 * 86400, 40 * 86400, 800 * 86400, 6000 * 86400)


def history(draw: random.Random) -> list[BackupSet]:
    """Return the sets of one VM at distinct seconds, some of them held."""
    start, span = draw.choice(STARTS), draw.choice(SPANS_SECONDS)
    times = {start + draw.randrange(span) for _ in range(draw.randrange(1, LONGEST))}
    return [BackupSet(f"{at}", at, held="held" if draw.random() < 0.05 else "") for at in times]


def ours(sets: list[BackupSet], retention: Retention) -> dict[float, list[str]]:
    return {
        verdict.set.at: sorted(rule for rule in verdict.rules) for verdict in judge(sets, retention) if verdict.keep
    }


def restics(kept: Mapping[str, list[str]]) -> dict[float, list[str]]:
    words = {f"{rule} snapshot": rule for rule in RULES} | {f"has tags [{HOLD}]": "held"}
    return {
        datetime.fromisoformat(at).timestamp(): sorted(words[match] for match in matches)
        for at, matches in kept.items()
    }


@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**32),
    zone=st.sampled_from(ZONES),
    counts=st.tuples(*(st.sampled_from((0, 0, 1, 2, 3, 7, 30)) for _ in RULES)).filter(any),
)
@pytest.mark.timeout(900)
def test_the_same_sets_are_kept_for_the_same_reasons(seed: int, zone: str, counts: tuple[int, ...]) -> None:
    draw = random.Random(seed)  # noqa: S311 - for histories, not for secrets
    histories = {f"vm{number}": history(draw) for number in range(HISTORIES)}
    flags = [word for rule, count in zip(RULES, counts, strict=True) for word in (f"--keep-{rule}", str(count))]
    with tempfile.TemporaryDirectory() as directory:
        repository = Repository(Path(directory))
        for vm, sets in histories.items():
            for one in sets:
                repository.add(vm, datetime.fromtimestamp(one.at, ZoneInfo(zone)), [HOLD] if one.held else [])
        said = repository.forget(*flags, "--keep-tag", HOLD, zone=zone)
    retention = Retention(
        **{f"keep_{rule}": count for rule, count in zip(RULES, counts, strict=True)}, time_zone=zone, min_verified=0
    )
    assert len(said) == HISTORIES
    assert {vm: ours(sets, retention) for vm, sets in histories.items()} == {
        vm: restics(kept) for vm, kept in said.items()
    }
