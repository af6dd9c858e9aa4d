"""An explanation in sentences: what fell, why the peak did not fall as far, where it is now, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence

from memprof.explanation import LOSS, UPDATE, Explanation, Lever, Moment
from memprof.record import Trace
from memprof.report.columns import NONE, percent, size
from memprof.report.describe import BASELINE, labels, plain
from memprof.timeline import ACTIVATION, EXTRA, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH

NAMES = {
    PARAM: "parameters", GRAD: "gradients", OPTIMIZER_STATE: "optimizer state", ACTIVATION: "activations",
    EXTRA: "temporaries",
}  # fmt: skip
LONGEST_COLUMN = 20
"""characters of a method's name that a column has room for"""
SMALL = 0.01
"""a change of less than this share of AdamW's peak is not told in a sentence"""
STEP_OPTIONS: dict[str, tuple[str, object]] = {
    "checkpointing": ("--checkpointing", False),
    "loss_chunks": ("--loss-chunks {}", 1),
    "clip_grad_norm": ("--clip-grad-norm {}", None),
}
"""what changes a step whatever its method, so that AdamW has it too; and the value that changes nothing"""


def headline(explained: Explanation, unit: str) -> str:
    """The answer in a line: the peak, and how it stands against AdamW's. Where a step that refreshes is heavier, that
    one has to fit, so it comes first."""
    peaks = _peaks(explained, unit)
    said = f"{name_of(explained)} on {plain(explained.record.model)}: peak {size(peaks[0], unit)} {unit}"
    if len(peaks) > 1:
        said += f" in a step that refreshes or merges, {size(peaks[1], unit)} {unit} in an ordinary one"
    if explained.baseline is None:
        return f"{said}, {where(explained.peak)}"
    other = _trace(explained).peak
    if set(peaks) == {other}:
        return f"{said}, the same as {BASELINE}'s{_alike(explained)}"
    ways = " and ".join(_way(peak, other) for peak in peaks)
    return f"{said}, {ways} {BASELINE}'s {size(other, unit)} {unit}{_alike(explained)}"


def _peaks(explained: Explanation, unit: str) -> list[int]:
    """What must fit, and the peak of an ordinary step where that is less to the eye."""
    heaviest, peak = explained.heaviest.nbytes, explained.trace.peak
    return [peak] if size(heaviest, unit) == size(peak, unit) else [heaviest, peak]


def _way(peak: int, other: int) -> str:
    return f"{percent(abs(1 - peak / other))} {'above' if peak > other else 'below'}"


def _alike(explained: Explanation) -> str:
    """The options that AdamW's step has as well: its plain peak would be another."""
    scenario = explained.record.scenario
    given = [text.format(plain(scenario[key])) for key, (text, silent) in STEP_OPTIONS.items()
             if scenario.get(key, silent) != silent]  # fmt: skip
    return f", both with {_listed(given)}" if given else ""


def name_of(explained: Explanation) -> str:
    """The method with what is not at its default: AdamW with other settings stands against AdamW."""
    return labels([explained.record])[0]


def short_name(explained: Explanation) -> str:
    """What a column has room for: the whole name where it is short, else the method's alone."""
    name, method = name_of(explained), plain(explained.record.method)
    if len(name) <= LONGEST_COLUMN:
        return name
    return method if method != BASELINE else "this one"


def diagnosis(explained: Explanation, unit: str) -> str:
    """A few plain sentences, all of their numbers from the traces."""
    said = [_state(explained), _moved(explained, unit), _now(explained, unit), _refresh(explained, unit)]
    return " ".join(filter(None, [*said, _next(explained.levers, unit)]))


def where(moment: Moment) -> str:
    """`in the backward of the loss`, `in the optimizer's step`."""
    if not moment.event:
        return "between two steps"
    step = {OPTIMIZER: "the optimizer's step", REFRESH: "the step's refresh"}.get(moment.phase)
    place = place_name(moment.place)
    if step:
        return f"in {step}" if moment.place == UPDATE else f"in {step}, at {place}"
    return f"in the {moment.doing or moment.phase} of {place}"


def place_name(place: str) -> str:
    return "the loss" if place == LOSS else plain(place).removeprefix("model.")


def _trace(explained: Explanation) -> Trace:
    assert explained.baseline is not None and explained.baseline.trace is not None
    return explained.baseline.trace


def _state(explained: Explanation) -> str:
    """How much of the optimizer state is saved, and how much of AdamW's peak that could have been."""
    if explained.baseline is None:
        return ""
    before, after = _trace(explained), explained.trace
    saved = 1 - after.optimizer_state / before.optimizer_state
    share = before.peak_by_category[OPTIMIZER_STATE] / before.peak
    if saved < SMALL:
        return f"It keeps {percent(-saved)} more optimizer state than {BASELINE}." if saved < -SMALL else ""
    of = f"and optimizer state is {percent(share)} of {BASELINE}'s peak"
    return f"It saves {percent(saved)} of the optimizer state, {of}."


def _moved(explained: Explanation, unit: str) -> str:
    """What the two peaks differ in, the largest first."""
    if explained.baseline is None:
        return ""
    least = SMALL * _trace(explained).peak
    moved = sorted(((name, change) for name, change in explained.waterfall if change), key=lambda item: -abs(item[1]))
    told = [f"{NAMES[name]} {_by(change, unit)}" for name, change in moved if abs(change) >= least]
    if not told:
        return "At the peak next to nothing changed." if moved else "At the peak nothing changed."
    rest = "nothing else changed" if len(moved) == len(told) else "little else changed"
    return f"At the peak {', '.join(told)}; {rest}."


def _by(change: int, unit: str) -> str:
    return f"{'fell' if change < 0 else 'grew'} by {size(abs(change), unit)} {unit}"


def _now(explained: Explanation, unit: str) -> str:
    """Where the peak is, whether it moved, and what it is made of."""
    peak, before = explained.peak, explained.baseline_peak
    largest = sorted(peak.by_category.items(), key=lambda item: -item[1])[:2]
    made = " and ".join(f"{NAMES[name]} ({size(nbytes, unit)})" for name, nbytes in largest)
    share = percent(sum(nbytes for _, nbytes in largest) / peak.nbytes)
    moved = before is not None and where(before) != where(peak)
    still = "" if before is None or moved else "still "
    line = f"The peak is {still}{where(peak)}, where {made} are {share} of it"
    return f"{line}; {BASELINE}'s is {where(before)}." if moved and before else f"{line}."


def _refresh(explained: Explanation, unit: str) -> str:
    if explained.refresh is None or explained.refresh.nbytes <= explained.peak.nbytes:
        return ""
    more = f"{size(explained.refresh.nbytes, unit)} {unit}"
    return f"A step that refreshes or merges needs {more}, {where(explained.refresh)}."


def _next(levers: Sequence[Lever], unit: str) -> str:
    """The best single lever, and what the best of them reach together."""
    alone = [lever for lever in levers if len(lever.changes) == 1 and lever.helps]
    if not alone:
        return "None of the usual levers lowers it further."
    best, together = alone[0], [lever for lever in levers if len(lever.changes) > 1]
    said = f"Next: {best.name}, down to {size(best.peak, unit)} {unit}"
    if not together or together[0].peak >= best.peak:
        return f"{said}."
    rest = [change for change in together[0].changes if change != best.name]
    return f"{said}, with {_listed(rest)} to {size(together[0].peak, unit)} {unit}."


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def saving(before: int | None, after: int) -> str:
    """The share of AdamW's figure that is saved."""
    return percent(1 - after / before) if before else NONE
