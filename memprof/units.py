"""Bytes to text and back. Everything inside memprof is an integer of bytes; units exist only at its edges."""

import re
from fractions import Fraction

from memprof.errors import MemprofError, shown

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]i?B|B)\s*", re.ASCII)
_NUMBER = r"(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|nan|inf)"
_THOUSANDS = {12: "T", 9: "G", 6: "M", 0: ""}
_NEARLY = re.compile(rf"\s*(-?){_NUMBER}\s*([kmgt]?i?b?)\s*", re.ASCII | re.IGNORECASE)
_SPELLED = {unit.lower(): unit for unit in UNITS}
MAX_BYTES = 2**60


def parse_size(text: str) -> int:
    """Whole bytes within a size such as "24GiB" or "9.5 GB". A bare number is an error: GB and GiB differ by 7 %."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise MemprofError(f"size {shown(text)!r} {_fault(text)}")
    exact = Fraction(match[1]) * UNITS[match[2]]
    if match[2] == "B" and exact.denominator != 1:
        raise MemprofError(f"size {shown(text)!r} has a part of a byte; write whole bytes")
    size = exact.numerator // exact.denominator
    if not 0 < size <= MAX_BYTES:
        raise MemprofError(f"size {shown(text)!r} is out of range; it must lie above 0 and within {MAX_BYTES} bytes")
    return size


def _fault(text: str) -> str:
    """What keeps a text from being a size, and how to write it."""
    nearly = _NEARLY.fullmatch(text)
    if nearly and nearly[1]:
        return "is out of range; it must lie above 0"
    unit = _SPELLED.get(nearly[2].lower()) if nearly else None
    if nearly and unit and nearly[2] != unit:
        return f"has no known unit; write {unit}"
    if nearly and unit:
        return "is not a plain number of at most 20 digits with a unit; write for instance 24GiB"
    return "is not a number with a unit; write for instance 24GiB (2**30) or 24GB (1e9)"


def format_size(size: int, unit: str = "GiB", digits: int = 2) -> str:
    """The number alone, in `unit`: a table names its unit once."""
    return f"{size / UNITS[unit]:.{digits}f}"


def format_rate(per_second: float, unit: str, ends: tuple[float, ...] = ()) -> str:
    """`4.10 TB/s`, `712 (700-719) TFLOP/s`: three digits of the number, in the thousands that suit it."""
    power = next((power for power in (12, 9, 6) if per_second >= 10**power), 0)
    number = per_second / 10**power
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    beside = "-".join(f"{end / 10**power:.{digits}f}" for end in ends)
    return f"{number:.{digits}f} {f'({beside}) ' if beside else ''}{_THOUSANDS[power]}{unit}"


def counted(number: int, noun: str) -> str:
    """`1 record`, `2 records`: a count as it is said."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
