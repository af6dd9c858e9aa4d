"""A waterfall as lines of text: bars of characters, and figures with their sign."""

from __future__ import annotations

from itertools import accumulate

from memprof.explanation import Explanation
from memprof.report.columns import size
from memprof.report.describe import BASELINE
from memprof.report.diagnosis import NAMES, short_name
from memprof.report.series import signed

LEAST_ROOM = 10
"""characters of the longest bar, however narrow the terminal"""


def waterfall_lines(explained: Explanation, unit: str, width: int) -> list[tuple[str, str]]:
    """Lines with their colour: AdamW's peak, what each category takes away or adds to it, the method's peak.

    Each bar begins where the one above it ended. A fall and a rise have characters of their own, and a sign.
    """
    assert explained.baseline is not None and explained.baseline.trace is not None
    first, last = explained.baseline.trace.peak, explained.trace.peak
    levels = list(accumulate((change for _, change in explained.waterfall), initial=first))
    names = [BASELINE, *(NAMES[name] for name, _ in explained.waterfall), short_name(explained)]
    figures = [size(first, unit), *(signed(change, unit) for _, change in explained.waterfall), size(last, unit)]
    wide, long = max(map(len, figures)), max(map(len, names))
    room = max(LEAST_ROOM, width - wide - long - 4)
    steps = [(min(pair), max(pair), pair[1] - pair[0]) for pair in zip(levels, levels[1:], strict=False)]
    bars = [bar(0, first, max(levels), room)]
    bars += [bar(low, high, max(levels), room, "▒" if change < 0 else "▓") for low, high, change in steps]
    bars.append(bar(0, last, max(levels), room))
    colours = ["", *("green" if change < 0 else "red" for _, _, change in steps), ""]
    texts = [f"{n:<{long}}  {f:>{wide}}  {b}".rstrip() for n, f, b in zip(names, figures, bars, strict=True)]
    return list(zip(texts, colours, strict=True))


def bar(low: int, high: int, scale: int, room: int, block: str = "█") -> str:
    """From `low` to `high` on a scale of `room` characters; what is there is seen, however small."""
    begin, end = (round(value / max(scale, 1) * room) for value in (low, high))
    if high > low and begin == end:
        begin, end = (begin - 1, end) if begin else (0, 1)
    return " " * begin + block * (end - begin)


def figure(nbytes: int, unit: str) -> str:
    """A size, where none is a plain 0."""
    return size(nbytes, unit) if nbytes else "0"
