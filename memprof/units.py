"""Bytes to text and back. Everything inside memprof is an integer of bytes; units exist only at its edges."""

import re

from memprof.errors import MemprofError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}  # fmt: skip
_SIZE = re.compile(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([KMGT]i?B|B)\s*")
MAX_BYTES = 2**60


def parse_size(text: str) -> int:
    """Bytes of a size such as "24GiB" or "9.5 GB". A bare number is an error: GB and GiB differ by 7 %."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise MemprofError(f"size {text!r} is not a number with a unit; write for instance 24GiB (2**30) or 24GB (1e9)")
    size = round(float(match[1]) * UNITS[match[2]])
    if not 0 < size <= MAX_BYTES:
        raise MemprofError(f"size {text!r} is out of range; it must lie above 0 and within {MAX_BYTES} bytes")
    return size


def format_size(size: int, unit: str = "GiB", digits: int = 2) -> str:
    """The number alone, in `unit`: a table names its unit once."""
    return f"{size / UNITS[unit]:.{digits}f}"


def counted(number: int, noun: str) -> str:
    """`1 record`, `2 records`: a count as it is said."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
