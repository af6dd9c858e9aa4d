"""A difference in words, once for the terminal and for Markdown: its rows, and what must be said below them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memprof.difference import IMPROVED, SAME, SPEED, VERDICTS, WORSE, Difference, Figure, Pair, Value
from memprof.record import Interval, Memory
from memprof.report.captions import SPOKEN, UNIT_MEANS
from memprof.report.columns import NONE, size, speed
from memprof.report.describe import labels, models, plain, scenario_line
from memprof.report.rows import SUM
from memprof.units import UNITS

NAMES = {
    "param": "parameters", "grad": "gradients", "optimizer_state": "optimizer state", "activation": "activations",
    "extra": "extra", "peak": "peak", "steady": "between steps", "refresh_peak": "refresh peak",
    SPEED: "examples/s", "status": "status",
}  # fmt: skip
"""how a table calls each figure"""
BINARY, DECIMAL = ("TiB", "GiB", "MiB", "KiB"), ("TB", "GB", "MB", "KB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure, as text."""

    model: str
    method: str
    figure: str
    before: str
    after: str
    change: str
    share: str
    verdict: str


def title(difference: Difference, unit: str) -> str:
    return f"{plain(difference.before.name)} to {plain(difference.after.name)}: what changed, {unit}"


def rows(difference: Difference, unit: str, everything: bool = False) -> list[Change]:
    """A row for each figure that did not stay the same, or for every one."""
    names = _names(difference)
    return [
        _row(figure, plain(pair.record.model), name, unit, figure_name(pair, figure))
        for pair, name in zip(difference.pairs, names, strict=True)
        for figure in pair.figures
        if everything or figure.verdict != SAME
    ]


def _names(difference: Difference) -> list[str]:
    return labels([pair.record for pair in difference.pairs])


def figure_name(pair: Pair, figure: Figure) -> str:
    """How a table calls a figure: where a paper's counting stands in the place of a peak, it is a sum."""
    return SUM if figure.key == "peak" and _is_sum(pair) else NAMES[figure.key]


def _is_sum(pair: Pair) -> bool:
    memory: Memory | None = getattr(pair.record, pair.witness) if pair.witness else None
    return memory is not None and memory.is_sum


def _row(figure: Figure, model: str, method: str, unit: str, name: str) -> Change:
    return Change(
        model=model,
        method=method,
        figure=name,
        before=_value(figure.before, unit),
        after=_value(figure.after, unit),
        change=_change(figure, unit),
        share=NONE if figure.share is None else _percent(figure.share),
        verdict=figure.verdict,
    )


def _value(value: Value, unit: str) -> str:
    if isinstance(value, Interval):
        return speed(value)
    if isinstance(value, str):
        return plain(value)
    return size(value, unit)


def _change(figure: Figure, unit: str) -> str:
    if figure.change is None:
        return NONE
    if isinstance(figure.change, int):
        return signed(figure.change, unit)
    return f"{figure.change:+.3g}/s"


def signed(change: int, unit: str) -> str:
    """With the unit in which it reads best, of the asked one's kind: a change is often far smaller than its figure."""
    family = BINARY if unit == "B" or unit in BINARY else DECIMAL
    best = next((name for name in family if abs(change) >= UNITS[name]), "B")
    return f"{change / UNITS[best]:+.2f} {best}" if best != "B" else f"{change:+d} B" if change else "0 B"


def _percent(share: float) -> str:
    """Never a zero for what did change."""
    if 0 < abs(share) < 5e-5:
        return f"{'+' if share > 0 else '-'}<0.01 %"
    return f"{share * 100:+.2f} %" if share else "0 %"


def caption(difference: Difference, unit: str, everything: bool = False) -> list[str]:
    """Paragraphs below the table: the count, whose figures in which scenario, what else differs, and why."""
    return [
        summary(difference, everything),
        _origin(difference, unit),
        *environments(difference),
        *_joins(difference),
        *_reasons(difference, unit),
    ]


def summary(difference: Difference, everything: bool = True) -> str:
    """How many figures of each verdict; empty verdicts stay away."""
    counts = difference.counts()
    said = [f"{counts[name]} {name}" for name in VERDICTS if counts[name]]
    hidden = "" if everything or not counts[SAME] else " (not shown; --all shows it)"
    within = f", where up to {difference.tolerance} more or less is the same" if difference.tolerance else ""
    return f"Figures: {', '.join(said) or 'none'}{hidden}{within}."


def _origin(difference: Difference, unit: str) -> str:
    """Which run is which, the scenario that all share, the unit and the witnesses."""
    runs = f"Before is {plain(difference.before.name)}, after is {plain(difference.after.name)}"
    records = [pair.record for pair in difference.pairs]
    means = f"{unit} = {UNIT_MEANS[unit]} bytes" if unit in UNIT_MEANS else "sizes in bytes"
    said = [*models(records), scenario_line(records), means, *_witnesses(difference)]
    return f"{runs}. {', '.join(filter(None, said))}."


def _witnesses(difference: Difference) -> Iterator[str]:
    """The commonest witness, and by name the scenarios of another."""
    named = list(zip(difference.pairs, _names(difference), strict=True))
    groups = {key: [name for pair, name in named if pair.witness == key] for key in SPOKEN}
    heard = sorted((key for key in groups if groups[key]), key=lambda key: -len(groups[key]))
    for position, key in enumerate(heard):
        yield SPOKEN[key] if position == 0 else f"{', '.join(groups[key])} {SPOKEN[key]}"


def environments(difference: Difference) -> list[str]:
    """Versions and devices that differ: where they do, the code under test may not be what changed."""
    changes = difference.environment_changes().items()
    said = [f"{plain(key)} {_fact(before)} before, {_fact(after)} after" for key, (before, after) in changes]
    return [f"The environments differ: {'; '.join(said)}."] if said else []


def _fact(value: object) -> str:
    return "not said" if value is None else plain(value)[:100]


def _joins(difference: Difference) -> list[str]:
    named = zip(difference.pairs, _names(difference), strict=True)
    loose = [name for pair, name in named if pair.joined_on == "scenario"]
    how = "joined although their ids differ: the scenarios are alike but for the device or fields left to defaults"
    return [f"{', '.join(loose)}: {how}."] if loose else []


def _reasons(difference: Difference, unit: str) -> list[str]:
    """For each figure that has one, why it changed."""
    several = len({pair.record.model for pair in difference.pairs}) > 1
    lines = []
    for pair, name in zip(difference.pairs, _names(difference), strict=True):
        where = f"{plain(pair.record.model)} {name}" if several else name
        told = ((figure, "; ".join(_reason(figure, unit, _is_sum(pair)))) for figure in pair.figures)
        lines += [f"{where}, {figure_name(pair, figure)}: {text}." for figure, text in told if text]
        lines += (
            [] if pair.figures or not pair.joined_on else [f"{where}: no figures of a witness that both runs have."]
        )
    return lines


def _reason(figure: Figure, unit: str, summed: bool) -> Iterator[str]:
    if figure.parts:
        parts = sorted(figure.parts.items(), key=lambda part: -abs(part[1]))
        yield ("in it " if summed else "at that instant ") + ", ".join(
            f"{NAMES[key]} {signed(change, unit)}" for key, change in parts
        )
    if figure.note:
        yield plain(figure.note)


def styles(verdict: str) -> str:
    """Colour only repeats what the verdict says."""
    return {WORSE: "red", IMPROVED: "green", SAME: "dim"}.get(verdict, "yellow")


def several_models(changes: Sequence[Change]) -> bool:
    return len({change.model for change in changes}) > 1
