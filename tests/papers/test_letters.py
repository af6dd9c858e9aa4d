"""Sums of letters. Oracle: the same sums written out."""

from __future__ import annotations

import pytest

from memprof.errors import MemprofError
from memprof.papers.letters import evaluate, parse_polynomial

LETTERS = {"m": 3, "n": 5, "r": 2, "h": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mn", 3 * 5),
        ("mr + 2nr", 3 * 2 + 2 * 5 * 2),
        ("24h2", 24 * 7 * 7),
        ("30hr", 30 * 7 * 2),
        ("mn+mr+nr", 3 * 5 + 3 * 2 + 5 * 2),
        ("4h", 4 * 7),
        ("hh", 7 * 7),
        ("nm", 5 * 3),
        ("12", 12),
        ("m + m", 6),
    ],
)
def test_a_sum_of_letters_has_its_value(text: str, value: int) -> None:
    assert evaluate(text, LETTERS) == value


def test_terms_are_collected_whatever_their_order() -> None:
    expected = {(("m", 1), ("r", 1)): 1, (("n", 1), ("r", 1)): 2}
    assert parse_polynomial("mr + 2nr") == parse_polynomial("rn + rm + nr") == expected


@pytest.mark.parametrize("text", ["", "+", "m +", "m-n", "2.5m", "M", "m^2", "mn; import os", "(m)", "1" * 12])
def test_what_is_no_sum_of_letters_is_refused(text: str) -> None:
    with pytest.raises(MemprofError, match="neither a number nor a sum of letters"):
        evaluate(text, LETTERS)


def test_a_letter_without_a_number_is_refused() -> None:
    with pytest.raises(MemprofError, match="letter q, for which `sizes` gives no number"):
        evaluate("mq", LETTERS)
