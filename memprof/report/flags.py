"""What a record's flags mean: what stood in the way of a measurement that did end well."""

from __future__ import annotations

from collections.abc import Sequence

from memprof.report.describe import plain
from memprof.report.rows import Row

MEANING = {
    "contaminated": "another process used the GPU meanwhile, and its speed and energy are not the method's alone",
    "host-bound": "the GPU waited for the host, so that the speed says more of Python than of the method",
    "throttled": "heat or a power failure slowed the GPU down; such rounds count only where there are no others",
    "in-process": "measured in the calling process, beside all that this one holds",
    "diverged": "the loss became infinite or no number: such a training is of no use, however fast and small",
    "flat": "the loss of the same tokens did not move by more than rounding may: nothing was learned in these steps",
    "rose": "the loss of the same tokens went up: in these steps, at this learning rate, nothing was learned",
}
"""of every flag that memprof sets"""


def meanings(rows: Sequence[Row]) -> list[str]:
    """A line for each flag that a row carries: who carries it, and what it means."""
    several = len({row.model for row in rows}) > 1
    names = [f"{row.model} {row.label}" if several else row.label for row in rows]
    pairs = list(zip(names, rows, strict=True))
    flags = dict.fromkeys(flag for row in rows for flag in row.record.flags)
    return [_line(flag, [name for name, row in pairs if flag in row.record.flags]) for flag in flags]


def _line(flag: str, names: Sequence[str]) -> str:
    means = MEANING.get(flag)
    return f"{plain(flag)} ({', '.join(names)})" + (f": {means}" if means else "")
