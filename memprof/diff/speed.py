"""When the speeds of two runs say nothing of the code: another machine, too few rounds, a disturbed run."""

from __future__ import annotations

import dataclasses

from memprof.difference import IMPROVED, INCONCLUSIVE, SAME, SPEED, WORSE, Pair, Run
from memprof.report.describe import plain

OF_THE_MACHINE = ("gpu", "platform", "threads")
"""facts of an environment without which a speed means something else"""
FEWEST = 6
"""rounds, or steps timed one by one; fewer lie all on one side of their median more often than 1 time in 20
(2**(1 - rounds))"""
DISTURBED = ("contaminated", "throttled")
"""flags under which a speed proves nothing"""


def doubts(before: Run, after: Run) -> str:
    """Why the speeds of these runs prove nothing of each other: another machine, or intervals that are none."""
    pairs = [(key, before.environment.get(key), after.environment.get(key)) for key in OF_THE_MACHINE]
    said = [
        f"{key} {plain(one)} before, {plain(other)} after"
        for key, one, other in pairs
        if one is not None and other is not None and one != other
    ]
    counts = [
        (run.rounds, "rounds") if run.rounds is not None else (run.steps, "timed steps") for run in (before, after)
    ]
    few, what = min(((count, what) for count, what in counts if count is not None), default=(FEWEST, ""))
    return "; ".join([*said, *([f"{few} {what} are too few for an interval"] if few < FEWEST else [])])


def doubted(pair: Pair, why: str) -> Pair:
    """A speed that seems to have changed, for a reason that need not be the code."""
    judged = (IMPROVED, WORSE, SAME)
    figures = tuple(
        dataclasses.replace(figure, verdict=INCONCLUSIVE, note=why)
        if why and figure.key == SPEED and figure.verdict in judged and figure.before != figure.after
        else figure
        for figure in pair.figures
    )
    return dataclasses.replace(pair, figures=figures)


def without_speed(pair: Pair) -> Pair:
    """Bytes and how the cell ended."""
    return dataclasses.replace(pair, figures=tuple(figure for figure in pair.figures if figure.key != SPEED))
