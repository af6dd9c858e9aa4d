"""What must stand beside the numbers: which model, whose numbers, in which scenario and unit, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from memprof.report.describe import models, scenario_line
from memprof.report.flags import meanings
from memprof.report.rows import PEAK, SUM, WITNESSES, Row, peak_name

UNIT_MEANS = {"KiB": "2^10", "MiB": "2^20", "GiB": "2^30", "TiB": "2^40",
              "KB": "1e3", "MB": "1e6", "GB": "1e9", "TB": "1e12"}  # fmt: skip
SPOKEN = {"measured": "measured", "trace": "by trace", "formula": "by formula"}
HOW_READ = (
    "OS is optimizer state. Param, Grad, OS and Act are read when their phase ends, Extra at the peak, "
    "so they need not add up to Peak."
)
HOW_COUNTED = (
    "OS is optimizer state. All is counted as that paper counts, and Sum is over categories: no instant of a step."
)
HOW_MIXED = f"{HOW_READ} What a paper's counting gives is a sum over categories and no instant of a step."
HOW_READ_BY = {PEAK: HOW_READ, SUM: HOW_COUNTED}
ENOUGH_ROUNDS = 6
"""for an interval of 95 %"""
BARS = f"Vertical bars: 95 % intervals, of fewer than {ENOUGH_ROUNDS} rounds their whole range."
RATIO_READ = (
    "Speed vs AdamW: examples/s over AdamW's, paired by round, with its 95 % interval; no rank is claimed where that "
    "includes 1."
)
EXPLAINED = {
    "Refresh peak": "Refresh peak: the worst instant of a step that refreshes a subspace or merges an adapter.",
    "vs AdamW": "vs AdamW: the share of AdamW's {peak} that is saved, negative when heavier.",
    "Paper total": "Paper total: the papers' sum over categories, no instant of a step.",
    "Fits": "Fits: yes where all that the allocator would hold has room, tight where only what is alive at once has, "
    "workspaces and rounding with it, which may be more than the {peak}; refresh steps included. The driver's context "
    "comes on top.",
    "Examples/s": "Examples/s: median with its 95 % interval.",
    "Loss": "Loss: of a step right after the warm-up and of the last one, on the same tokens.",
    "Speed vs AdamW": RATIO_READ,
}


def title(rows: Sequence[Row], unit: str) -> str:
    names = models(row.record for row in rows)
    return f"{', '.join(names)}: memory of a training step, {unit}" if names else f"Memory of a training step, {unit}"


def caption(rows: Sequence[Row], unit: str, headers: Iterable[str]) -> list[str]:
    """Paragraphs below a table that has these columns: scenario, source, how to read it, what failed."""
    headers = list(headers)
    peak = peak_name(rows)
    found = [name for name in EXPLAINED if any(header.startswith(name) for header in headers)]
    explained = [EXPLAINED[name].format(peak=peak) for name in found] + (judges(rows) if "Fits" in found else [])
    sure = few_rounds(rows) if "Examples/s" in found else []
    how = " ".join([HOW_READ_BY.get(peak, HOW_MIXED), *explained, *sure, *weaker(rows), *warm_starts(rows)])
    return [scenario_line([row.record for row in rows]), source(rows, unit), how, *failures(rows), *meanings(rows)]


def source(rows: Sequence[Row], unit: str) -> str:
    """The unit, and whose numbers these are."""
    means = f"{unit} = {UNIT_MEANS[unit]} bytes" if unit in UNIT_MEANS else "bytes"
    return f"{means}, {witness_line(rows)}"


def witness_line(rows: Sequence[Row]) -> str:
    """Where witnesses mix: the commonest one, and who else speaks for which row."""
    groups = {name: [row.label for row in rows if row.witness == name] for name in WITNESSES}
    heard = {name: members for name, members in groups.items() if members}
    if not heard:
        return "no witness ran"
    common = max(heard, key=lambda name: len(heard[name]))
    others = [f"{', '.join(members)} {SPOKEN[name]}" for name, members in heard.items() if name != common]
    return "; ".join([f"{SPOKEN[common]}{_where(rows, common)}", *others])


def _where(rows: Sequence[Row], witness: str) -> str:
    devices = {str(row.record.scenario.get("device")) for row in rows if row.witness == witness}
    return f" on {devices.pop()}" if witness == "measured" and len(devices) == 1 and devices != {"None"} else ""


def judges(rows: Sequence[Row]) -> list[str]:
    """Who says what fits, where that is not who speaks in the other columns."""
    names = {row.fits_by for row in rows if row.fits_by and row.fits_by != row.witness}
    return [f"Fits is {SPOKEN[name]}, not by the {'sum' if peak_name(rows) == SUM else 'figures'} shown."
            for name in WITNESSES if name in names]  # fmt: skip


def few_rounds(rows: Sequence[Row]) -> list[str]:
    """What an interval promises that spans all rounds there are: by chance they may all lie on one side."""
    few: dict[int, list[str]] = {}
    for row in rows:
        if row.speed is not None and row.speed.rounds < ENOUGH_ROUNDS:
            few.setdefault(row.speed.rounds, []).append(row.label)
    said = [
        f"of {count} it holds the true median {100 * (1 - 2 ** (1 - count)):.0f} times in 100 ({', '.join(names)})"
        for count, names in few.items()
    ]
    whole = f"The interval of fewer than {ENOUGH_ROUNDS} rounds is their whole range"
    return [f"{whole}: {', '.join(said)}."] if said else []


def weaker(rows: Sequence[Row]) -> list[str]:
    """Savings that had to be read off a weaker witness than the peak beside them."""
    names = {row.saving_by for row in rows if row.saving_by != row.witness and row.saving_by}
    return [f"vs AdamW is by {name} where AdamW itself was not measured." for name in sorted(names)]


def warm_starts(rows: Sequence[Row]) -> list[str]:
    """Rows that describe a training only from some step on."""
    settings = [row.record.scenario.get("hyperparameters") or {} for row in rows]
    if not any(each.get("warm_start") for each in settings):
        return []
    return [
        "A warm start's row holds from the switch on: until then the run costs what adamw does, and must fit as adamw."
    ]


def failures(rows: Sequence[Row]) -> list[str]:
    """Every cell that did not end well, with its reason."""
    several = len({row.model for row in rows}) > 1
    names = [f"{row.model} {row.label}" if several else row.label for row in rows]
    pairs = zip(names, rows, strict=True)
    return [f"{name}: {row.status}" + (f" - {row.reason}" if row.reason else "")
            for name, row in pairs if row.record.status != "ok"]  # fmt: skip
