"""The memory of one step as text: an area chart from zero, its phases marked and its peak pointed at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memprof.record import History
from memprof.report.columns import size

ROWS = 4
LEAST_NAME = 4
"""characters, the mark before it included, that still say which phase it is"""
BLOCKS = " ▁▂▃▄▅▆▇█"


def step_chart(timeline: History, width: int, unit: str, at_peak: str) -> list[str]:
    """Lines of at most `width` characters: the axis with its largest value, the curve, the phases, the peak."""
    peak = max(timeline.total)
    label = size(peak, unit)
    margin = len(label) + 2
    columns = _columns(timeline, max(10, width - margin))
    labels = [label, *[""] * (ROWS - 2), "0"]
    lines = [f"{text:>{margin - 2}} │{row}".rstrip() for text, row in zip(labels, _area(columns, peak), strict=True)]
    below = [_phases(timeline, len(columns)), _pointer(columns.index(peak), len(columns), at_peak)]
    return [*lines, *(f"{'':{margin}}{line}".rstrip() for line in below)]


def _columns(timeline: History, width: int) -> list[int]:
    """The most bytes alive in each of `width` equal stretches of the step."""
    found: list[int | None] = [None] * width
    for event, total in zip(timeline.event, timeline.total, strict=True):
        place = _column(event, timeline.events, width)
        found[place] = max(total, found[place] or 0)
    return list(_filled(found))


def _filled(columns: Sequence[int | None]) -> Iterator[int]:
    """A stretch without an instant of its own goes on as the one before it."""
    last = 0
    for value in columns:
        last = last if value is None else value
        yield last


def _column(event: int, events: int, width: int) -> int:
    return event * width // (events + 1)


def _area(columns: Sequence[int], peak: int) -> Iterator[str]:
    """Rows from the top, each column as high as its share of the peak."""
    steps = len(BLOCKS) - 1
    heights = [-(-column * ROWS * steps // max(peak, 1)) for column in columns]
    for row in reversed(range(ROWS)):
        yield "".join(BLOCKS[min(max(height - row * steps, 0), steps)] for height in heights)


def _phases(timeline: History, width: int) -> str:
    """Each phase's name from where it begins, or what there is room for of it."""
    begins = [index for index, phase in enumerate(timeline.phase) if not index or phase != timeline.phase[index - 1]]
    places = [_column(timeline.event[index], timeline.events, width) for index in begins]
    line = ""
    for place, end, index in zip(places, [*places[1:], width + 1], begins, strict=True):
        name = f"|{timeline.phase[index]}"[: max(1, end - place - 1)]
        line = line[:place].ljust(place) + (name if len(name) >= LEAST_NAME else "|")
    return line


def _pointer(place: int, width: int, text: str) -> str:
    """An arrow below the peak, with its words on the side where there is room."""
    if place + len(text) + 2 <= width:
        return f"{'':{place}}▲ {text}"
    return f"{text} ▲".rjust(place + 1)
