"""An explanation in the terminal: the answer first, then the figures that it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from memprof.counting import COUNTINGS, MEMPROF, ZOO_VOCABULARY
from memprof.explanation import Explanation, Holding
from memprof.record import Memory
from memprof.report.captions import UNIT_MEANS
from memprof.report.columns import size
from memprof.report.describe import BASELINE, plain, scenario_line
from memprof.report.diagnosis import NAMES, diagnosis, headline, name_of, place_name, saving, short_name, where
from memprof.report.series import signed
from memprof.report.step_chart import step_chart
from memprof.report.waterfall_text import bar, figure, waterfall_lines
from memprof.timeline import EXTRA

WIDTH = 96
"""columns that suffice; a wider terminal leaves the rest empty"""
BESIDE_OPTION = 40
"""columns that a change and its figures take beside an option"""
KEPT = {"optimizer_state": "optimizer state", "steady": "between two steps"}
PAPERS = {"optimizer_state": "optimizer state", "total": "sum"}
PEAKS = {"peak": "peak of a step", "refresh_peak": "peak of a refresh step"}
HOW_READ = (
    "Param and OS (optimizer state) are read between two steps, Grad when backward returns, Act when forward does. "
    "A paper's sum is over categories, no instant of a step. The step is drawn allocation by "
    "allocation, not second by second."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationPage:
    """A rich renderable: headline, diagnosis, and one table for each question."""

    explained: Explanation
    unit: str
    top: int
    """rows of the longer tables"""

    @property
    def natural_width(self) -> int:
        return WIDTH

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Group(*self._blocks(min(options.max_width, WIDTH)))

    def _blocks(self, width: int) -> Iterator[RenderableType]:
        explained, unit = self.explained, self.unit
        name = name_of(explained)
        yield _wrapped(headline(explained, unit), width, "bold")
        yield _wrapped(diagnosis(explained, unit), width)
        if explained.baseline is not None:
            yield _heading(f"From {BASELINE}'s peak to {name}'s, {unit}")
            yield Text("\n").join(Text(line, style=style) for line, style in waterfall_lines(explained, unit, width))
        yield _heading(f"What is counted, {unit}")
        yield _counted(explained, unit)
        yield _heading(f"One step of {name}, {unit}")
        yield Text("\n".join(_step(explained, unit, width)), no_wrap=True)
        yield _heading(f"Alive at the peak: what would have to shrink, {unit}")
        yield _holdings(explained, unit, self.top, width)
        yield _heading(f"Module by module, {unit}")
        yield _parts(explained, unit, self.top)
        if explained.levers:
            yield _heading(f"What would lower the peak, traced, {unit}")
            yield from _levers(explained, unit, width)
        yield _wrapped("\n".join(["", *_caption(explained, unit)]), width, "dim")


def render(explained: Explanation, *, unit: str = "GiB", top: int = 8) -> ExplanationPage:
    """What to print."""
    return ExplanationPage(explained=explained, unit=unit, top=top)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _wrapped(text: str, width: int, style: str = "") -> Text:
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    return Text("\n".join(lines), style=style)


def _table(*columns: tuple[str, bool]) -> Table:
    """Columns by header, and whether they are text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for header, is_text in columns:
        table.add_column(header, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    return table


def _counted(explained: Explanation, unit: str) -> Table:
    """What a paper, a checkpoint and a device each mean by memory, and what is saved of it."""
    name, before = short_name(explained), explained.baseline
    table = _table(("", True), *([(BASELINE, False)] if before else []), (name, False))
    if before:
        table.add_column("Saved", justify="right", no_wrap=True)
    for label, was, value in _figures(explained):
        compared = [size(value, unit)] if before is None else [size(was, unit), size(value, unit), saving(was, value)]
        table.add_row(label, *compared)
    return table


def _figures(explained: Explanation) -> Iterator[tuple[str, int | None, int]]:
    """What is counted, AdamW's bytes and the method's: what is kept, what papers make of it, the worst instants."""
    before: Memory | None = explained.baseline.trace if explained.baseline else None
    for key, label in KEPT.items():
        yield label, getattr(before, key, None), getattr(explained.trace, key)
    for account in sorted(explained.accounts, key=lambda each: each.key):
        yield f"{PAPERS[account.key]} by {', '.join(account.countings)}", account.before, account.after
    for key, label in PEAKS.items():
        value: int | None = getattr(explained.trace, key)
        if value is not None:
            yield label, getattr(before, key, None), value


def _step(explained: Explanation, unit: str, width: int) -> list[str]:
    """The curve, then the highest instant of each phase: where the peak goes when it is lowered where it is."""
    peak = f"{size(explained.trace.peak, unit)} {where(explained.peak)}"
    lines = step_chart(explained.timeline, width, unit, peak)
    highest: dict[str, int] = {}
    for phase, total in zip(explained.timeline.phase, explained.timeline.total, strict=True):
        highest[phase] = max(total, highest.get(phase, 0))
    said = [f"{plain(phase)} {size(total, unit)}" for phase, total in highest.items()]
    if explained.refresh is not None:
        said.append(f"a refresh step {size(explained.refresh.nbytes, unit)} {where(explained.refresh)}")
    return [*lines, *textwrap.wrap(f"Highest in {', '.join(said)}.", width)]


def _holdings(explained: Explanation, unit: str, top: int, width: int) -> Table:
    shown = explained.holdings[:top]
    names = [_where(holding) for holding in shown]
    room = max(4, width - 30 - min(max(map(len, names)), width - 36))
    table = _table(("What", True), ("Of", True), (unit, False))
    table.columns[0].no_wrap = True
    table.add_column("", no_wrap=True)
    for holding, name in zip(shown, names, strict=True):
        of = bar(0, holding.nbytes, shown[0].nbytes, room)
        table.add_row(NAMES[holding.category], name, size(holding.nbytes, unit), of)
    if len(explained.holdings) > top:
        rest = sum(holding.nbytes for holding in explained.holdings[top:])
        table.add_row(_others(len(explained.holdings) - top), "", size(rest, unit), "")
    return table


def _where(holding: Holding) -> str:
    """The module; of temporaries the operations that made them too."""
    name = place_name(holding.name)
    return f"{name}: {plain(holding.what)}" if holding.category == EXTRA else name


def _parts(explained: Explanation, unit: str, top: int) -> Table:
    table = _table(("Module", True), ("Param", False), ("Grad", False), ("OS", False), ("Act", False))
    keys = ("param", "grad", "optimizer_state", "activation")
    for part in explained.parts[:top]:
        times = f" x {part.modules}" if part.modules > 1 else ""
        table.add_row(f"{place_name(part.name)}{times}", *(figure(getattr(part, key), unit) for key in keys))
    others = explained.parts[top:]
    if others:
        table.add_row(_others(len(others)), *(figure(sum(getattr(each, key) for each in others), unit) for key in keys))
    table.add_row("in all", *(figure(getattr(explained.trace, key), unit) for key in keys), style="bold")
    return table


def _others(count: int) -> str:
    return "1 other" if count == 1 else f"{count} others"


def _levers(explained: Explanation, unit: str, width: int) -> Iterator[RenderableType]:
    """Each change with what it reaches. Options are there to be copied, so they stand whole: below where no column is
    wide enough."""
    options = [[plain(option) for option in lever.options] for lever in explained.levers]
    beside = max((len(option) for each in options for option in each), default=0) + BESIDE_OPTION <= width
    table = _table(("Change", True), ("Peak", False), ("Saves", False))
    if beside:
        table.add_column("Option", no_wrap=True)
    for lever, told in zip(explained.levers, options, strict=True):
        name = f"{lever.name} ({lever.price})" if len(lever.changes) == 1 else lever.name
        saves = signed(lever.saves, unit).removeprefix("+")
        table.add_row(name, size(lever.peak, unit), saves, *(["\n".join(told)] if beside else []))
    yield table
    for lever, told in zip(explained.levers, options, strict=True) if not beside else ():
        yield _wrapped(f"\n{lever.name}:", width)
        yield Text("\n".join(told))


def _caption(explained: Explanation, unit: str) -> Iterator[str]:
    """The scenario, and what must be known to read the figures."""
    means = f"{unit} = {UNIT_MEANS[unit]} bytes" if unit in UNIT_MEANS else "bytes"
    yield f"{scenario_line([explained.record])}. {means}, by trace."
    yield _made_of(list(explained.state.items()), unit)
    yield " ".join([HOW_READ, *_vocabularies(explained)])
    if explained.refresh is not None and explained.levers:
        yield "Changes are judged by the heavier one of an ordinary step and one that refreshes or merges."


def _vocabularies(explained: Explanation) -> Iterator[str]:
    """The papers that count this model with a vocabulary of their own."""
    own = explained.record.scenario.get("vocab_size")
    names = dict.fromkeys(name for account in explained.accounts for name in account.countings)
    for name in names:
        counting = COUNTINGS.get(name, MEMPROF)
        if counting.vocab_size and own == ZOO_VOCABULARY:
            yield f"{plain(name)} counts a vocabulary of {counting.vocab_size}, this model has {own}."


def _made_of(state: Sequence[tuple[str, int]], unit: str) -> str:
    """What the optimizer keeps, by the names that it gives its tensors."""
    if not state:
        return "The optimizer keeps nothing."
    said = [f"{plain(name)} {size(nbytes, unit)}" for name, nbytes in state[:6]]
    return f"Optimizer state is {', '.join(said)}{', ...' if len(state) > 6 else ''}."
