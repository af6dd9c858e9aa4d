"""Checks in words: the rows of the table, what to do about a failure, Markdown to paste, and the JSON document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from memprof.budget.baseline import update_command
from memprof.budget.check import Check, Verdict
from memprof.budget.explain import amount, rate
from memprof.budget.limits import SPEED, Kind
from memprof.budget.run import Outcome
from memprof.record import SCHEMA_VERSION
from memprof.report.describe import plain
from memprof.report.text import escape

COLUMNS = ("Budget", "Key", "Limit", "Actual", "Headroom", "Verdict")
TEXT_COLUMNS = (0, 1, 5)
NONE = "-"


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row for each limit, in the order of the file."""
    return [
        (check.budget.name, check.limit.key, _limit(check), _actual(check), _headroom(check), check.verdict.value)
        for check in outcome.checks
    ]


def summary(outcome: Outcome) -> str:
    """Whose figures these are, and how many limits hold."""
    counts = Counter(check.verdict for check in outcome.checks)
    said = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    by = "by trace" if outcome.device is None else f"measured on {outcome.device}"
    return f"{plain(outcome.file.source.name)}, {by}: {said}"


def remarks(outcome: Outcome) -> Iterator[str]:
    """A paragraph of lines for every check that did not simply pass, then what could not be checked."""
    told: tuple[str, tuple[str, ...]] = ("", ())
    previous = ""
    for check in outcome.checks:
        if check.verdict in (Verdict.PASS, Verdict.NOT_MEASURED):
            continue
        reason = (check.budget.name, check.why)
        why = (f"for the same reason as its {previous}",) if check.why and reason == told else check.why
        yield f"{headline(check)}\n" + "".join(f"  {line}\n" for line in (*why, *advice(outcome, check)))
        told, previous = reason, check.limit.key
    yield from _not_measured(outcome)


def _not_measured(outcome: Outcome) -> Iterator[str]:
    """A line for each figure that nobody had, whatever number of budgets limits it."""
    budgets: dict[tuple[str, str], list[str]] = {}
    for check in outcome.checks:
        if check.verdict is Verdict.NOT_MEASURED:
            budgets.setdefault((check.limit.key, "; ".join(check.why)), []).append(check.budget.name)
    yield from (f"{key} of {', '.join(names)} is not measured: {why}" for (key, why), names in budgets.items())


def headline(check: Check) -> str:
    """The fact in one line."""
    name = f"{check.budget.name}: {check.limit.key}"
    if check.verdict is Verdict.BROKEN:
        return f"{name} is not known"
    if check.verdict is Verdict.CHANGED:
        return f"{name} is {_actual(check)}, of another scenario than was accepted"
    if check.limit.key == SPEED:
        return f"{name} is {_actual(check)}, at least {_limit(check)} is asked for: {check.verdict.value.lower()}"
    if check.verdict is Verdict.INCONCLUSIVE:
        return f"{name} is {_actual(check)}, the limit is {_limit(check)}: inconclusive"
    over = amount(-int(check.headroom or 0))
    return f"{name} is {_actual(check)}, {over} over the limit of {_limit(check)}"


def advice(outcome: Outcome, check: Check) -> tuple[str, ...]:
    """The user's own message, and the line to edit when the cost is meant."""
    said = (f"message: {check.budget.message}",) if check.budget.message else ()
    if check.verdict in (Verdict.BROKEN, Verdict.INCONCLUSIVE):
        return said
    command = update_command(outcome.device)
    if check.verdict is Verdict.CHANGED:
        return (*said, f"if this is meant, accept it: {command}")
    place = outcome.file.source.where(check.budget.index, *check.limit.path)
    key = ".".join(check.limit.path)
    accept = f"; or accept the new figures: {command}" if check.limit.needs_baseline else ""
    return (*said, f"if this is meant, edit {key} at {place}{accept}")


def markdown(outcome: Outcome) -> str:
    """For a pull request or a step summary."""
    lines = [COLUMNS, tuple("---" if index in TEXT_COLUMNS else "---:" for index in range(len(COLUMNS)))]
    table = [f"| {' | '.join(cells)} |" for cells in lines]
    table += [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows(outcome)]
    paragraphs = ["### Memory budgets", escape(summary(outcome)), "\n".join(table)]
    for remark in remarks(outcome):
        first, *others = remark.splitlines()
        paragraphs.append("\n".join([f"**{escape(first)}**", "", *(f"* {escape(line)}" for line in others)]))
    return "\n\n".join(paragraphs) + "\n"


def document(outcome: Outcome) -> str:
    """One JSON document: every check with its figures in bytes, and the records behind them."""
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "environment": outcome.environment,
        "file": outcome.file.source.name,
        "baseline": outcome.baseline.name if outcome.baseline else None,
        "exit_code": outcome.exit_code,
        "checks": [_plain_check(check) for check in outcome.checks],
        "records": [record.to_dict() for record in outcome.records],
    }
    return json.dumps(body, indent=1, allow_nan=False)


def _plain_check(check: Check) -> dict[str, Any]:
    limit = check.limit
    return {
        "budget": check.budget.name,
        "key": limit.key,
        "kind": limit.kind.value,
        "written": limit.text,
        "line": limit.line,
        "limit": check.bound,
        "actual": check.actual,
        "interval": asdict(check.interval) if check.interval else None,
        "headroom": check.headroom,
        "verdict": check.verdict.value.lower(),
        "why": list(check.why),
        "message": check.budget.message or None,
    }


def _limit(check: Check) -> str:
    """As it was written; a limit against a baseline with what that comes to."""
    limit = check.limit
    if limit.kind is Kind.SIZE or (check.bound is None and limit.kind is Kind.SPEED):
        return limit.text
    if check.bound is None:
        return f"baseline x {limit.text}" if limit.kind is Kind.SPEED_RATIO else f"baseline + {limit.text}"
    if limit.kind is Kind.INCREASE:
        return f"{amount(int(check.bound))} (+{limit.text})"
    ratio = f" ({limit.text} of the baseline)" if limit.kind is Kind.SPEED_RATIO else ""
    return f"{rate(check.bound)}/s{ratio}"


def _actual(check: Check) -> str:
    if check.actual is None:
        return NONE
    if check.interval:
        return f"{rate(check.actual)}/s ({rate(check.interval.low)} to {rate(check.interval.high)})"
    return amount(int(check.actual))


def _headroom(check: Check) -> str:
    if check.headroom is None:
        return NONE
    figure = f"{rate(check.headroom, signed=True)}/s" if check.interval else amount(int(check.headroom), signed=True)
    share = f" ({check.headroom / check.bound:+.1%})" if check.bound else ""
    return figure + share
