"""Sizes and durations as people write and read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.units import GIB, KIB, MIB, QUANTITY_PATTERN, TIB, human_bytes, human_seconds, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("4096", 4096), ("100Mi", 100 * MIB), ("2G", 2 * 10**9), ("2Gi", 2 * GIB), ("1k", 1000), ("1Ki", KIB)],
)
def test_quantities_mean_what_kubernetes_means(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


def test_plain_number_is_bytes() -> None:
    assert parse_bytes(4096) == 4096


@pytest.mark.parametrize("text", ["", "Mi", "1.5Gi", "-1", "1 Gi", "1GiB", "1m", "1K", "1Gi\n", "٣Gi", "0x10"])
def test_other_sizes_are_refused_with_the_way_to_write_them(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write a whole number"):
        parse_bytes(text)


@given(st.from_regex(QUANTITY_PATTERN, fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_every_size_that_the_schema_takes_can_be_read(text: str) -> None:
    assert parse_bytes(text.rstrip("\n")) > 0


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (KIB, "1.0 KiB"), (1536 * MIB, "1.5 GiB"), (2 * TIB, "2.0 TiB")],
)
def test_sizes_read_well(size_bytes: int, text: str) -> None:
    assert human_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (0.44, "0.4s"), (42, "42s"), (59.4, "59s"), (60, "1m00s"), (185, "3m05s"), (7800, "2h10m")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@given(st.floats(0, 10**7, allow_nan=False))
def test_no_duration_shows_sixty_seconds_or_minutes(seconds: float) -> None:
    text = human_seconds(seconds)
    assert re.fullmatch(r"\d\.\ds|10\.0s|[1-5]\ds|[1-5]?\dm[0-5]\ds|\d+h[0-5]\dm", text)
