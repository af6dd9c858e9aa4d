"""Budgets, run: plans each scenario, traces or measures it once, keeps what is to be accepted, and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from memprof.api import environment, plan, run
from memprof.budget.baseline import Baseline, read_baseline, replace_file, write_baseline
from memprof.budget.check import Check, Verdict, check_records, require_baseline
from memprof.budget.config import Budget, BudgetFile, read_budgets
from memprof.budget.rewrite import new_limits, rewrite
from memprof.budget.source import shown
from memprof.diff.speed import FEWEST
from memprof.errors import MemprofError, NothingToDoError
from memprof.race.laps import DEFAULT_ROUNDS, DEFAULT_STEPS
from memprof.record import Record
from memprof.runner import DEFAULT_TIMEOUT
from memprof.scenario import Scenario
from memprof.units import counted

FAILED, INCOMPLETE = 1, 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found."""

    file: BudgetFile
    checks: list[Check]
    records: list[Record]
    """one for each scenario, which budgets may share"""
    baseline: Baseline | None
    environment: dict[str, Any]
    device: str | None
    notes: list[str] = field(default_factory=list)
    """what was written, in words"""

    @property
    def exit_code(self) -> int:
        """A budget that fails is a result, so it comes before a cell that gave none."""
        verdicts = {check.verdict for check in self.checks}
        if Verdict.FAIL in verdicts:
            return FAILED
        if Verdict.BROKEN in verdicts:
            return INCOMPLETE
        return NothingToDoError.exit_code if Verdict.CHANGED in verdicts else 0


def check_file(
    file: BudgetFile,
    *,
    device: str | None = None,
    rounds: int = DEFAULT_ROUNDS,
    steps: int = DEFAULT_STEPS,
    timeout: float = DEFAULT_TIMEOUT,
    update: bool = False,
    update_limits: bool = False,
    on_record: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Run every scenario of the file by trace, or for real on `device`, and check its budgets.

    `update` accepts the records as the new baseline before the check, `update_limits` sets absolute limits to them;
    neither is done when a cell gave no record.
    """
    if device is not None and rounds < FEWEST:
        raise MemprofError(f"{rounds} rounds are too few for an interval; a check runs at least {FEWEST}")
    facts = dict(environment(device))
    scenarios = [_plan(file, budget, device) for budget in file.budgets]
    if not update:
        _require_baseline(file, scenarios)
    records = _run(scenarios, on_record, rounds=rounds, steps=steps, timeout=timeout)
    whole = all(record.status == "ok" for record in records.values())
    notes = []
    if update and whole:
        names = {budget.name: scenario.id for budget, scenario in zip(file.budgets, scenarios, strict=True)}
        write_baseline(file.baseline, list(records.values()), facts, device, names)
        notes.append(f"accepted {counted(len(records), 'record')} as the baseline")
    outcome = _check(file, scenarios, records, facts, device)
    if update_limits and whole:
        values = new_limits(outcome.checks)
        if values:
            replace_file(file.source.path, rewrite(file.source, values))
            outcome = _check(read_budgets(file.source.path), scenarios, records, facts, device)
        notes.append(f"set {counted(len(values), 'limit')} in {file.source.name}")
    if (update or update_limits) and not whole:
        notes.append("nothing was updated, because not every scenario ran to its end")
    outcome.notes.extend(notes)
    return outcome


def _plan(file: BudgetFile, budget: Budget, device: str | None) -> Scenario:
    """The budget's scenario; what is wrong with it is told with the budget's place."""
    fields = dict(budget.scenario)
    where = f"{file.source.where(budget.index)}: budget {budget.name!r}"
    try:
        model, method = fields.pop("model", "1b"), fields.pop("method", "adamw")
        scenario = plan([model], [method], device=device, **fields)[0]
    except MemprofError as error:
        raise type(error)(f"{where}: {error}") from None
    _use_of_rank(file, budget, scenario)
    for limit in budget.limits:
        if limit.key == "refresh_peak" and not scenario.method.is_periodic:
            place = file.source.where(budget.index, *limit.path)
            raise MemprofError(
                f"{place}: {scenario.method.name} has no periodic work and so no refresh_peak; remove it"
            )
    return scenario


def _use_of_rank(file: BudgetFile, budget: Budget, scenario: Scenario) -> None:
    """A budget's own rank that nobody heeds is a mistake; one in [defaults] is for the methods that have a rank."""
    asked = file.source.data["budget"][budget.index].get("rank")
    used = getattr(scenario.method, "rank", None)
    if asked is not None and asked != used:
        has = "no rank" if used is None else f"rank {used} from its own settings"
        place = file.source.where(budget.index, "rank")
        raise MemprofError(f"{place}: rank {asked} is not used: {scenario.method.name} has {has}; remove it")


def _require_baseline(file: BudgetFile, scenarios: Sequence[Scenario]) -> None:
    """Before anything runs: a missing baseline must not cost the time of the run."""
    baseline = read_baseline(file.baseline)
    for budget, scenario in zip(file.budgets, scenarios, strict=True):
        try:
            require_baseline(budget, scenario.id, baseline, shown(file.baseline), device=scenario.device)
        except NothingToDoError as error:
            raise NothingToDoError(f"{file.source.where(budget.index)}: {error}") from None


def _run(scenarios: Sequence[Scenario], on_record: Callable[[int, int], None], **options: Any) -> dict[str, Record]:
    """Each scenario once, whatever number of budgets it has."""
    different = {scenario.id: scenario for scenario in scenarios}
    records: dict[str, Record] = {}
    for record in run(different.values(), **options):
        records[record.id] = record
        on_record(len(records), len(different))
    return records


def _check(
    file: BudgetFile,
    scenarios: Sequence[Scenario],
    records: dict[str, Record],
    facts: dict[str, Any],
    device: str | None,
) -> Outcome:
    baseline = read_baseline(file.baseline)
    checks = check_records(file.budgets, [records[scenario.id] for scenario in scenarios], baseline, facts)
    for budget in file.budgets:
        if all(check.verdict is Verdict.NOT_MEASURED for check in checks if check.budget is budget):
            where = file.source.where(budget.index)
            raise NothingToDoError(
                f"{where}: budget {budget.name!r} has no limit that a trace can check; use --measure"
            )
    return Outcome(file, checks, list(records.values()), baseline, facts, device)
