"""Limits as people write them: "9.5 GiB", "1%" or "64 MiB" more than the baseline, so many examples a second."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

from memprof.budget.fields import dotted, fail, known_keys, text_with_unit, typed
from memprof.budget.source import KeyPath, Source
from memprof.errors import MemprofError
from memprof.report.describe import plain
from memprof.units import parse_size

SIZE_KEYS = ("param", "grad", "optimizer_state", "activation", "extra", "peak", "steady", "refresh_peak", "total",
             "reserved", "device")  # fmt: skip
"""what a limit can be set on; `total` is the formula's, `device` is there only where it was measured"""
SPEED = "examples_per_second"
MAX_PERCENT = 1000
MAX_TEXT = 100
_PERCENT = re.compile(r"\s*(\d{1,20}(?:\.\d{1,9})?)\s*%\s*", re.ASCII)


class Kind(StrEnum):
    """What a figure is held against."""

    SIZE = "limit"
    INCREASE = "increase"
    SPEED = "speed"
    SPEED_RATIO = "speed ratio"


_SPEED_KINDS = {"min_examples_per_second": Kind.SPEED, "min_examples_per_second_ratio": Kind.SPEED_RATIO}
LIMIT_KEYS = (*SIZE_KEYS, "max_increase", *_SPEED_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One figure and how far it may go. Bytes are exact: a percentage is a fraction, never a float."""

    key: str
    """the record's figure: one of SIZE_KEYS, or SPEED"""
    kind: Kind
    path: tuple[str, ...]
    """the keys that lead to it inside its budget: ("max_increase", "peak")"""
    text: str
    """as it was written"""
    size: int = 0
    """bytes: the limit itself, or what may come on top of the baseline"""
    share: Fraction = Fraction(0)
    """of the baseline, that may come on top"""
    rate: float = 0.0
    """least examples per second, or least ratio to the baseline's"""
    line: int | None = None

    @property
    def needs_baseline(self) -> bool:
        return self.kind in (Kind.INCREASE, Kind.SPEED_RATIO)

    def most(self, before: int = 0) -> int:
        """The most bytes that are within this limit, where the baseline has `before`."""
        if self.kind is Kind.SIZE:
            return self.size
        return before + self.size + before * self.share.numerator // self.share.denominator


def read_limits(source: Source, index: int, budget: Mapping[str, Any]) -> tuple[Limit, ...]:
    """A budget's limits, in the order in which they were written."""
    limits = tuple(replace(limit, line=source.line(index, *limit.path)) for limit in _limits(source, index, budget))
    if not limits:
        fail(source, f"budget {budget['name']!r} has no limit; add one of {', '.join(LIMIT_KEYS)}", index)
    return limits


def _limits(source: Source, index: int, budget: Mapping[str, Any]) -> Iterator[Limit]:
    for key, value in budget.items():
        if key in SIZE_KEYS:
            yield _size(source, value, (index, key))
        elif key in _SPEED_KINDS:
            yield _speed(source, value, (index, key))
        elif key == "max_increase" and not isinstance(value, dict):
            yield _increase(source, value, "peak", (index, key))
        elif key == "max_increase":
            known_keys(source, value, SIZE_KEYS, index, key)
            for name, more in value.items():
                yield _increase(source, more, name, (index, key, name))


def _size(source: Source, value: object, path: KeyPath) -> Limit:
    key = dotted(path)
    text = _short(source, text_with_unit(source, value, path, '"9.5 GiB"'), path)
    try:
        return Limit(key=key, kind=Kind.SIZE, path=(key,), text=plain(text), size=parse_size(text))
    except MemprofError as error:
        fail(source, f"{key}: {plain(error)}", *path)


def _short(source: Source, text: str, path: KeyPath) -> str:
    if len(text) > MAX_TEXT:
        fail(source, f"{dotted(path)} is too long; it may have {MAX_TEXT} characters", *path)
    return text


def _increase(source: Source, value: object, key: str, path: KeyPath) -> Limit:
    """`max_increase = "1%"` is about the peak; a table names the keys that it is about."""
    text = _short(source, text_with_unit(source, value, path, '"1%" or "64 MiB"'), path)
    try:
        size, share = parse_increase(text)
    except MemprofError as error:
        fail(source, f"{dotted(path)}: {plain(error)}", *path)
    inside = tuple(str(part) for part in path[1:])
    return Limit(key=key, kind=Kind.INCREASE, path=inside, text=plain(text), size=size, share=share)


def parse_increase(text: str) -> tuple[int, Fraction]:
    """Bytes and share that "64 MiB" or "1%" allow on top of a baseline; one of the two is 0."""
    match = _PERCENT.fullmatch(text)
    if match is None and "%" in text:
        raise MemprofError(f'increase {text!r} is no percentage; write for instance "1%" or "0.5%"')
    if match is None:
        return parse_size(text), Fraction(0)
    share = Fraction(match[1]) / 100
    if share > Fraction(MAX_PERCENT, 100):
        raise MemprofError(f"increase {text!r} is out of range; it may be 0% to {MAX_PERCENT}%")
    return 0, share


def _speed(source: Source, value: object, path: KeyPath) -> Limit:
    key = dotted(path)
    rate = typed(source, value, float, path)
    if not (math.isfinite(rate) and rate > 0):
        fail(source, f"{key} {rate} is out of range; it must be a finite number above 0", *path)
    return Limit(key=SPEED, kind=_SPEED_KINDS[key], path=(key,), text=f"{rate:g}", rate=rate)
