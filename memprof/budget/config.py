"""What a budget file says, checked key by key: scenarios, limits, and where their baseline lies. Nothing is run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from memprof.budget.fields import MAX_INT, fail, known_keys, typed
from memprof.budget.limits import LIMIT_KEYS, SPEED, Limit, read_limits
from memprof.budget.source import BUDGET_FILE, PYPROJECT, Source, load_source, quote
from memprof.errors import NothingToDoError
from memprof.report.describe import plain

BASELINE_FILE = "memprof-baseline.json"
SCENARIO_KEYS: dict[str, type] = {
    "model": str, "method": str, "rank": int, "batch_size": int, "accumulation": int, "seq_len": int, "dtype": str,
    "kernels": str, "vocab_size": int, "num_layers": int, "checkpointing": bool, "loss_chunks": int,
    "clip_grad_norm": float, "seed": int,
}  # fmt: skip
"""what a budget and [defaults] may say of the scenario; what they mean is checked where every scenario is made"""
BUDGET_KEYS = ("name", *SCENARIO_KEYS, *LIMIT_KEYS, "gate_throughput", "message")
FILE_KEYS = ("baseline", "defaults", "budget")
MAX_BUDGETS = 200
MAX_MESSAGE = 500
MAX_ACCUMULATION = 1_024
"""micro-batches of a step, which a trace runs one by one"""
_NAME = re.compile(r"[^\W_].{0,99}")  # begins as a word: a name at a line's start is never taken for a CI's command


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A scenario and the limits that it must keep."""

    name: str
    index: int
    """its place in the file, from 0"""
    scenario: dict[str, Any]
    """fields of `memprof.api.plan`, the file's defaults included"""
    limits: tuple[Limit, ...]
    gate_throughput: bool = False
    """whether a slower run fails; otherwise it only warns"""
    message: str = ""
    """the user's own words for whoever breaks it"""


@dataclass(frozen=True, slots=True)
class BudgetFile:
    """All budgets of a file."""

    source: Source
    budgets: tuple[Budget, ...]
    baseline: Path


def read_budgets(file: str | Path | None = None) -> BudgetFile:
    """The budgets of a file (memprof.toml or pyproject.toml here by default); an error names file, line and key."""
    source = load_source(file)
    data = source.data
    known_keys(source, data, FILE_KEYS)
    defaults = typed(source, data.get("defaults", {}), dict, ("defaults",))
    known_keys(source, defaults, SCENARIO_KEYS, "defaults")
    entries = data.get("budget", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        fail(source, "budget must be a list of tables: [[budget]], or [[tool.memprof.budget]] in pyproject.toml")
    if not entries:
        raise NothingToDoError(f"{source.name} has no budgets; add [[budget]] with a name and a limit")
    if len(entries) > MAX_BUDGETS:
        fail(source, f"{len(entries)} budgets are too many; a file may have {MAX_BUDGETS}")
    base = _scenario(source, defaults, "defaults")
    budgets = tuple(_budget(source, index, entry, base) for index, entry in enumerate(entries))
    _names_differ(source, budgets)
    return BudgetFile(source, budgets, _baseline(source))


def _names_differ(source: Source, budgets: tuple[Budget, ...]) -> None:
    seen: set[str] = set()
    for budget in budgets:
        if budget.name in seen:
            fail(source, f"two budgets are called {quote(budget.name)}; names must differ", budget.index, "name")
        seen.add(budget.name)


def _budget(source: Source, index: int, entry: dict[str, Any], defaults: dict[str, Any]) -> Budget:
    known_keys(source, entry, BUDGET_KEYS, index)
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.isprintable():
        fail(source, "a budget needs a name: text of at most 100 characters, a letter or digit first", index)
    message = typed(source, entry.get("message", ""), str, (index, "message"))
    if len(message) > MAX_MESSAGE:
        fail(source, f"message is too long; it may have {MAX_MESSAGE} characters", index, "message")
    scenario = defaults | _scenario(source, entry, index)
    gate = typed(source, entry.get("gate_throughput", False), bool, (index, "gate_throughput"))
    limits = read_limits(source, index, entry)
    if gate and not any(limit.key == SPEED for limit in limits):
        fail(source, "gate_throughput gates nothing here: add min_examples_per_second", index, "gate_throughput")
    return Budget(
        name=name,
        index=index,
        scenario=scenario,
        limits=limits,
        gate_throughput=gate,
        message=plain(message),
    )


def _scenario(source: Source, table: Mapping[str, Any], place: int | str) -> dict[str, Any]:
    """The scenario's keys of a table, with their types; a model's path counts from the budget file's folder."""
    found = {key: typed(source, table[key], kind, (place, key)) for key, kind in SCENARIO_KEYS.items() if key in table}
    for key, value in found.items():
        least = 0 if key == "seed" else 1
        most = MAX_ACCUMULATION if key == "accumulation" else MAX_INT
        if SCENARIO_KEYS[key] is int and not least <= value <= most:
            fail(source, f"{key} {value} is out of range; it must be from {least} to {most}", place, key)
        if isinstance(value, str) and not (value.isprintable() and len(value) <= MAX_MESSAGE):
            fail(source, f"{key} must be printable text of at most {MAX_MESSAGE} characters", place, key)
    model = found.get("model", "")
    if found.get("method", "").endswith(":"):
        fail(
            source, f"method {quote(found['method'])} has no settings after its colon; leave that out", place, "method"
        )
    if "/" in model or model.endswith(".json"):
        found["model"] = str(source.path.parent / model)
    return found


def _baseline(source: Source) -> Path:
    """In the budget file's folder or below: what is data must not choose which file --update overwrites."""
    usual = source.path.name in (BUDGET_FILE, PYPROJECT)
    own = BASELINE_FILE if usual else f"{source.path.stem}-baseline.json"  # two files that share one overwrite it
    name = typed(source, source.data.get("baseline", own), str, ("baseline",))
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".json" or not name.isprintable():
        fail(source, f"baseline {quote(name)} must be a .json file in the same folder or below, as {BASELINE_FILE} is")
    folder = source.path.parent
    if not Path(os.path.realpath(folder / path)).is_relative_to(os.path.realpath(folder)):
        fail(source, f"baseline {quote(name)} is a link that leads out of its folder; put the file itself there")
    return folder / path
