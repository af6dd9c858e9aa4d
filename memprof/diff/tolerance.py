"""How much a figure may change and still be called the same. Exact arithmetic: a limit is a limit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from memprof.errors import MemprofError
from memprof.units import parse_size

_SHARE = re.compile(r"\s*(\d{1,4}(?:\.\d{1,9})?)\s*%\s*", re.ASCII)
LONGEST = 40
"""characters of a tolerance as it is written"""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A share of the smaller of both values, or bytes.

    The smaller one is the earlier one where a figure grew, so that "1%" means what it means in a budget; and a change
    is judged alike in both directions, so that exchanging the runs only exchanges improved and worse.
    """

    share: Fraction = Fraction(0)
    nbytes: int = 0
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "0.5%" or "64MiB"; "0" is none at all."""
        if text.strip() == "0":
            return cls()
        if len(text) > LONGEST:
            raise MemprofError(f"tolerance {text[:LONGEST]!r}... is too long; write for instance 0.5% or 64MiB")
        match = _SHARE.fullmatch(text)
        if match:
            share = Fraction(match[1]) / 100
            return cls(share=share, text=text.strip()) if share else cls()
        try:
            return cls(nbytes=parse_size(text), text=text.strip())
        except MemprofError:
            raise MemprofError(
                f"tolerance {text!r} is neither a share nor a size; write for instance 0.5% or 64MiB"
            ) from None

    def allows(self, before: int, after: int) -> bool:
        """Whether these bytes are still the same."""
        share = self.share * min(before, after)
        return abs(after - before) <= max(share, Fraction(self.nbytes))
