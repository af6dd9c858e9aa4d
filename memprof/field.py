"""Which cells of a comparison race each other, and what is known of a cell before its own turn comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

from memprof.errors import MemprofError
from memprof.headroom import Headroom, outgrown
from memprof.race.ask import Race, Result
from memprof.race.order import baseline_of, surroundings
from memprof.record import Record
from memprof.runner import has_a_name, predict
from memprof.scenario import Scenario

OnRace = Callable[[int, int], None]
"""told of how many methods in how many rounds, as a race begins"""


class Known(TypedDict, total=False):
    """Of one cell, as `run_cell` takes it."""

    predicted: Record
    raced: Result


class Field:
    """The cells of a comparison. Those that differ in their method alone race when the first of them has its turn.

    `beside` are cells that have their records already, of an earlier part of the run. Their AdamW races once more where
    there would be none: rounds of another day are no pairs.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        *,
        rounds: int,
        steps: int,
        timeout: float,
        max_fraction: float,
        on_race: OnRace,
        beside: Sequence[Scenario] = (),
    ) -> None:
        self.scenarios = scenarios
        self.rounds, self.steps, self.timeout, self.max_fraction = rounds, steps, timeout, max_fraction
        self.on_race, self.beside = on_race, beside
        self._known: dict[str, Known] = {}

    def known(self, scenario: Scenario, failed: Iterable[Record]) -> Known:
        """Of a scenario whose turn it is. What is larger than one of `failed` is not raced; nothing is in no rounds."""
        if not self.rounds or scenario.device is None or not has_a_name(scenario.method):
            return {}
        if scenario.id not in self._known:
            self._race([scenario, *self._others(scenario, list(failed))])
        return self._known[scenario.id]

    def _others(self, first: Scenario, failed: Sequence[Record]) -> list[Scenario]:
        where = surroundings(first)
        return [
            other
            for other in self.scenarios
            if other.id != first.id
            and other.id not in self._known
            and has_a_name(other.method)
            and surroundings(other) == where
            and outgrown(other, failed) is None
        ]

    def _race(self, scenarios: Sequence[Scenario]) -> None:
        """Predict them all, since that says what fits; then time those that could be traced."""
        first, *others = scenarios
        self._known[first.id] = {"predicted": predict(first)}
        for other in others:
            try:
                self._known[other.id] = {"predicted": predict(other)}
            except MemprofError:
                continue  # its own turn says so, when what comes before is done
        entrants = [each for each in scenarios if each.id in self._known and self._predicted(each).trace is not None]
        if not entrants:
            return
        entrants += self._baseline(entrants)
        rooms = {each.id: self._room(each) for each in entrants}
        self.on_race(len(entrants), self.rounds)
        race = Race(scenarios=tuple(entrants), rooms=rooms, rounds=self.rounds, steps=self.steps, timeout=self.timeout)
        for name, result in race.run().items():
            self._known[name]["raced"] = result

    def _baseline(self, entrants: Sequence[Scenario]) -> list[Scenario]:
        """AdamW, whom these would have to race without."""
        alike = [each for each in self.beside if surroundings(each) == surroundings(entrants[0])]
        if baseline_of(entrants) is not None or (name := baseline_of(alike)) is None:
            return []
        (found,) = (each for each in alike if each.id == name)
        self._known[name] = {"predicted": predict(found)}
        return [] if self._predicted(found).trace is None else [found]

    def _predicted(self, scenario: Scenario) -> Record:
        return self._known[scenario.id]["predicted"]

    def _room(self, scenario: Scenario) -> Headroom:
        traced = self._predicted(scenario).trace
        assert traced is not None
        return Headroom.of(traced, self.max_fraction)
