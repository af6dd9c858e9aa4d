"""Formulas as papers print them: sums of products of letters, such as "mr + 2nr" or "24h2"."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from memprof.errors import MemprofError, shown

_TERM = re.compile(r"(\d{0,9})((?:[a-z]\d?)*)")
Monomial = tuple[tuple[str, int], ...]
"""letters with their powers, in order"""


def parse_polynomial(text: str) -> dict[Monomial, int]:
    """Coefficients of "mr + 2nr": {m r: 1, n r: 2}. A digit after a letter is its power."""
    found: Counter[Monomial] = Counter()
    for term in text.replace(" ", "").split("+"):
        match = _TERM.fullmatch(term)
        if not term or match is None:
            raise MemprofError(f"{shown(repr(text))} is neither a number nor a sum of letters such as 'mr + 2nr'")
        powers: Counter[str] = Counter()
        for letter, power in re.findall(r"([a-z])(\d?)", match[2]):
            powers[letter] += int(power or 1)
        found[tuple(sorted(powers.items()))] += int(match[1] or 1)
    return dict(found)


def evaluate(text: str, letters: Mapping[str, int]) -> int:
    """The value of such a sum."""
    total = 0
    for monomial, coefficient in parse_polynomial(text).items():
        product = coefficient
        for letter, power in monomial:
            if letter not in letters:
                raise MemprofError(f"{shown(repr(text))} has the letter {letter}, for which `sizes` gives no number")
            product *= letters[letter] ** power
        total += product
    return total
