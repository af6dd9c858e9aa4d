"""Whose turn it is, and who is compared with whom."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

from memprof.scenario import Scenario

BASELINE = "adamw"
OF_THE_METHOD = ("method", "hyperparameters", "given")
Turn = tuple[str, bool]
"""an entrant's id, and whether it is the baseline's second turn, for the null"""


def surroundings(scenario: Scenario) -> str:
    """The scenario without its method: those who share it may race."""
    rest = {key: value for key, value in scenario.to_dict().items() if key not in OF_THE_METHOD}
    return json.dumps(rest, sort_keys=True)


def baseline_of(scenarios: Sequence[Scenario]) -> str | None:
    """The id of plain AdamW among them, which the others are set against; None where it does not take part."""
    plain = (one.id for one in scenarios if one.method.name == BASELINE and not one.method.given())
    return next(plain, None)


def orders(scenarios: Sequence[Scenario], rounds: int, null: bool = True) -> Iterator[list[Turn]]:
    """The turns of each round, drawn anew from the scenarios' seed; the baseline has two, unless there is no null."""
    generator = random.Random(scenarios[0].seed)
    turns: list[Turn] = [(scenario.id, False) for scenario in scenarios]
    baseline = baseline_of(scenarios)
    turns += [] if baseline is None or not null else [(baseline, True)]
    for _ in range(rounds):
        yield generator.sample(turns, len(turns))
