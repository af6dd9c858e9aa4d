"""Sizes as people write them: exact to the byte, and an error that says what to write instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.errors import MemprofError
from memprof.units import MAX_BYTES, format_rate, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("9007199254740993 B", 2**53 + 1),  # the first whole number that a float does not have
        ("24GiB", 24 * 2**30),
        (" 9.5 GB ", 9_500_000_000),
        ("0.3 KiB", 307),  # 307.2 bytes: the whole ones
        ("1048576 TiB", MAX_BYTES),
    ],
)
def test_a_size_is_exact(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\u0662 GiB", "is not a number with a unit; write for instance 24GiB"),  # an Arabic two
        ("1.5 B", "has a part of a byte; write whole bytes"),
        ("-5 GiB", "is out of range; it must lie above 0"),
        ("0 B", "is out of range; it must lie above 0"),
        ("9.5 gib", "has no known unit; write GiB"),
        ("9.5 Gb", "has no known unit; write GB"),
        ("1e30 GiB", "is not a plain number of at most 20 digits with a unit"),
        ("nan GiB", "is not a plain number of at most 20 digits with a unit"),
        ("9500", "is not a number with a unit; write for instance 24GiB"),
        ("", "is not a number with a unit"),
    ],
)
def test_what_is_no_size_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(MemprofError) as error:
        parse_size(text)
    assert said in str(error.value)


@given(text=st.text(max_size=40))
def test_any_text_is_a_size_or_refused_in_one_line(text: str) -> None:
    try:
        assert 0 < parse_size(text) <= MAX_BYTES
    except MemprofError as error:
        assert "\n" not in str(error)


@given(nbytes=st.integers(1, MAX_BYTES))
def test_whole_bytes_come_back_as_they_were(nbytes: int) -> None:
    assert parse_size(f"{nbytes} B") == nbytes


@pytest.mark.parametrize(
    ("per_second", "ends", "text"),
    [
        (4.1e12, (), "4.10 TB/s"),
        (711.6e12, (700e12, 719.4e12), "712 (700-719) TB/s"),
        (9.994e9, (), "9.99 GB/s"),
        (9.996e9, (), "10.0 GB/s"),
        (25.21e9, (999e6, 26e9), "25.2 (1.0-26.0) GB/s"),
        (12.0, (), "12.0 B/s"),
    ],
)
def test_a_rate_has_three_digits_and_its_spread_the_same_thousands(
    per_second: float, ends: tuple[float, ...], text: str
) -> None:
    assert format_rate(per_second, "B/s", ends) == text
