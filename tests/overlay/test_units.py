from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError
from overlay.units import parse_duration, parse_size, show_duration, show_size, show_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2min", 120),
        ("1 h", 3600),
        ("90d", 7776000),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1GiB", 1 << 30), ("512 MiB", 1 << 29), ("2GB", 2 * 10**9), ("0.5KiB", 512), ("0", 0)],
)
def test_sizes_are_read_with_their_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("30", "needs a unit"),
        ("30x", "unknown unit"),
        ("s", "such as 30s"),
        ("", "such as"),
        ("-1s", "such as"),
        ("1e3s", "such as"),
        ("nan", "such as"),
        ("9" * 99 + "s", "such as"),
    ],
)
def test_a_bad_duration_says_what_to_write(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [("1", "needs a unit"), ("1gib", "unknown unit"), ("1G", "unknown unit"), ("0.3B", "whole")],
)
def test_a_bad_size_says_what_to_write(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_shown_size_reads_back(size_bytes: int) -> None:
    assert parse_size(show_size(size_bytes)) == size_bytes


@given(st.integers(0, 10**9).map(lambda ms: ms / 1000))
def test_a_shown_duration_reads_back(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


def test_shown_values_are_short() -> None:
    assert [show_duration(s) for s in (0.05, 1.5, 30, 600, 3600)] == [
        "50ms",
        "1.5s",
        "30s",
        "10min",
        "1h",
    ]
    assert [show_size(b) for b in (1 << 30, 3 << 20, 1000)] == ["1GiB", "3MiB", "1000B"]


def test_a_moment_is_shown_to_the_minute_and_not_in_this_hosts_zone() -> None:
    assert show_time(1_772_357_459.9) == "2026-03-01 09:30 UTC"
