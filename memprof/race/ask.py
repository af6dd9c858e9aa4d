"""A race as the asking process sees it: who runs beside whom, in which processes, and what came of it.

All that fit run in one process. What does not fit beside each other runs in a fresh process for each turn, in the same
random order, so that rounds are still pairs. What failed beside others is tried once more by itself: a cell's status
never depends on its company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from memprof.child import MAX_ANSWER, NO_ANSWER, CellError, ask_child, data_of, one_line
from memprof.headroom import Headroom
from memprof.race.bounds import Abilities
from memprof.race.estimate import Pace
from memprof.race.laps import Laps, shares
from memprof.race.order import baseline_of, orders
from memprof.race.result import Raced, raced
from memprof.reading import read
from memprof.record import STATUSES
from memprof.scenario import Scenario

FINAL = ("skipped", "unsupported")
"""statuses that no other company would change"""
Outcome = Laps | CellError
Result = Raced | CellError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a process said of those that raced in it."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    known: Abilities = Abilities()
    apart: bool = False
    """that nobody ran, since not all fit beside each other"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Scenarios that differ in their method alone, and how their speed is taken."""

    scenarios: tuple[Scenario, ...]
    rooms: Mapping[str, Headroom]
    """what each needs, by its id"""
    rounds: int
    steps: int
    timeout: float
    """seconds for each entrant"""

    @property
    def windows(self) -> tuple[int, ...]:
        return shares(self.steps, self.rounds)

    def run(self) -> dict[str, Result]:
        """A result for every scenario, by its id."""
        try:
            answer = self._ask(self.scenarios, self.windows)
        except CellError as error:
            if len(self.scenarios) == 1 or error.status in FINAL:
                return {scenario.id: error for scenario in self.scenarios}
            return self._each_alone(self.scenarios)
        if answer.apart:
            return results(self.scenarios, self._apart())
        found = results(self.scenarios, answer)
        failed = [each for each in self.scenarios if _may_do_better(found[each.id])] if len(self.scenarios) > 1 else []
        return found | self._each_alone(failed)

    def _each_alone(self, scenarios: Sequence[Scenario]) -> dict[str, Result]:
        found: dict[str, Result] = {}
        for scenario in scenarios:
            found |= replace(self, scenarios=(scenario,)).run()
        return found

    def _apart(self) -> Answer:
        """A process for each turn. One that fails there was alone, and is out."""
        by_id = {scenario.id: scenario for scenario in self.scenarios}
        laps: dict[str, list[Laps]] = {name: [] for name in by_id}
        failed: dict[str, Outcome] = {}
        second: list[float | None] = []
        known = Abilities()
        for steps, turns in zip(self.windows, orders(self.scenarios, self.rounds), strict=True):
            second.append(None)
            for name, again in turns:
                if name in failed:
                    continue
                answer = self._ask_one(by_id[name], steps, measured=known.rates is None)
                known, outcome = answer.known if known.rates is None else known, answer.outcomes[name]
                if isinstance(outcome, CellError):
                    failed[name] = outcome
                elif again:
                    second[-1] = None if outcome.rounds[0].slowdowns else outcome.rounds[0].step
                else:
                    laps[name].append(outcome)
        baseline = baseline_of(self.scenarios)
        done: dict[str, Outcome] = {
            name: joined(each, second if name == baseline else ()) for name, each in laps.items() if name not in failed
        }
        return Answer(outcomes=failed | done, known=known)

    def _ask_one(self, scenario: Scenario, steps: int, measured: bool) -> Answer:
        try:
            return self._ask([scenario], [steps], null=False, measured=measured)
        except CellError as error:
            return Answer(outcomes={scenario.id: error})

    def _ask(
        self, scenarios: Sequence[Scenario], windows: Sequence[int], *, null: bool = True, measured: bool = True
    ) -> Answer:
        """One process. `null`: the baseline has its second windows there. `measured`: what the device can do, too."""
        text = scenarios[0].text
        request = {
            "race": {
                "scenarios": [scenario.to_dict() for scenario in scenarios],
                "headrooms": [asdict(self.rooms[scenario.id]) for scenario in scenarios],
                "windows": list(windows),
                "null": null,
                "ceilings": measured,
                "text": None if text is None else str(text.path),
            }
        }
        most = MAX_ANSWER * len(scenarios)
        data = data_of(ask_child(request, self.timeout * len(scenarios), most), most)
        try:
            return _answer(data, {scenario.id for scenario in scenarios}, len(windows))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CellError("crashed", NO_ANSWER) from None


def results(scenarios: Sequence[Scenario], answer: Answer) -> dict[str, Result]:
    """Figures from rounds, each set against the baseline's, where that ran."""
    paces = {
        scenario.id: Pace(scenario, laps)
        for scenario in scenarios
        if isinstance(laps := answer.outcomes[scenario.id], Laps)
    }
    baseline = paces.get(baseline_of(scenarios) or "")
    failed = {name: outcome for name, outcome in answer.outcomes.items() if isinstance(outcome, CellError)}
    return {**failed, **{name: raced(pace, baseline, answer.known) for name, pace in paces.items()}}


def joined(parts: Sequence[Laps], again: Sequence[float | None] = ()) -> Laps:
    """The rounds of several processes, as of one. Its losses are the first one's: each begins from the same weights."""
    rounds = [round for part in parts for round in part.rounds]
    if again:
        rounds = [replace(round, again=seconds) for round, seconds in zip(rounds, again, strict=True)]
    return replace(
        parts[0],
        rounds=tuple(rounds),
        warmup_steps=max(part.warmup_steps for part in parts),
        steady=all(part.steady for part in parts),
    )


def _may_do_better(result: Result) -> bool:
    return isinstance(result, CellError) and result.status not in FINAL


def _answer(data: Mapping[str, Any], asked: set[str], rounds: int) -> Answer:
    """Checked: figures for everyone who was asked for, over all rounds, or a reason."""
    if data.get("apart") is True:
        return Answer(apart=True)
    outcomes = {name: _outcome(each) for name, each in data["outcomes"].items()}
    if set(outcomes) != asked or any(len(one.rounds) != rounds for one in outcomes.values() if isinstance(one, Laps)):
        raise ValueError("not what was asked for")
    return Answer(outcomes=outcomes, known=read(Abilities, data["abilities"]))


def _outcome(data: Mapping[str, Any]) -> Outcome:
    if "laps" in data:
        return read(Laps, data["laps"])
    if data["status"] not in STATUSES[1:]:
        raise ValueError("unknown status")
    return CellError(data["status"], one_line(str(data["reason"])))
