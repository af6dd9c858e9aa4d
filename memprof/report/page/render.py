"""Records into the page: gathers what each section shows and lets the template set it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from memprof.errors import NothingToDoError
from memprof.record import Record
from memprof.report import captions
from memprof.report.columns import choose, percent, size
from memprof.report.describe import plain, scenario_line, spell
from memprof.report.page.bars import stacks, waterfalls
from memprof.report.page.points import agreement_chart, speed_charts, sweep_charts
from memprof.report.page.table import table
from memprof.report.page.timeline import SIDE, plots
from memprof.report.palette import DARK, DASHES, LINES, NAMES, PALETTE
from memprof.report.rows import EITHER, Row, make_rows, peak_name
from memprof.report.series import settings

HERE = Path(__file__).parent
MOST_ANSWERS = 4
"""scenarios of which each has its lightest method named above the table"""
LEADING = 79
"""columns of a higher rank stand first, the highest leftmost: what a phone shows; the others keep their order"""
_FACTS = ("vocab_size", "num_layers", "batch_size", "accumulation", "seq_len", "dtype", "kernels", "checkpointing",
          "loss_chunks", "clip_grad_norm", "counting", "device", "seed", "text")  # fmt: skip


def html(
    records: Sequence[Record],
    *,
    environment: Mapping[str, Any],
    commands: Sequence[str] = (),
    by: str | None = None,
    unit: str = "GiB",
    fits: int | None = None,
    note: str = "",
) -> str:
    """The whole page. `environment` is what made the run, `commands` are what makes it again."""
    rows = make_rows(records, by=by, fits=fits)
    if not rows:
        raise NothingToDoError("there are no records to show")
    columns = sorted(choose(rows, unit, fits), key=lambda column: -max(column.rank, LEADING))
    settings = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    timelines = plots(rows, unit)
    return settings.get_template("page.html").render(
        title=captions.title(rows, unit),
        scenario=scenario_line(records),
        source=captions.source(rows, unit),
        answer=answer(rows, unit),
        peak=peak_name(rows),
        note=note,
        unit=unit,
        columns=columns,
        lines=table(rows, columns),
        captions=captions.caption(rows, unit, [column.header for column in columns])[2:],
        bars=_by_model(rows, unit),
        seen=[name for name in PALETTE if any(row.memory and row.memory.peak_by_category.get(name) for row in rows)],
        names=NAMES,
        timelines=timelines,
        side=SIDE,
        waterfalls=waterfalls(rows, unit),
        speeds=speed_charts(rows, unit),
        sweeps=sweep_charts(rows, unit),
        agreement=agreement_chart(rows, unit),
        facts=facts(records),
        environment={plain(key): plain(value) for key, value in environment.items() if value is not None},
        commands=[plain(command) for command in commands],
        palette=PALETTE,
        dark=DARK,
        line_colours=LINES,
        dashes=DASHES,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        data=embedded({"timelines": {plot.key: plot.data for plot in timelines}, "names": NAMES}),
        records=embedded([_bare(record) for record in records]),
    )


def answer(rows: Sequence[Row], unit: str) -> str:
    """The first thing to know: the lightest, and how far it is below AdamW; once for each batch size and length."""
    groups = settings(rows)
    if len({row.model for row in rows}) > 1 or len(groups) > MOST_ANSWERS or peak_name(rows) == EITHER:
        return ""
    return " ".join(filter(None, (_lightest(name, group, unit) for name, group in groups.items())))


def _lightest(name: str, rows: Sequence[Row], unit: str) -> str:
    seen = [row for row in rows if row.peak is not None]
    if not seen:
        return ""
    least = min(seen, key=lambda row: row.peak or 0)
    where = "in sum" if least.is_sum else "at its peak"
    label = least.label.removesuffix(name).strip()
    said = f"Lightest{f' at {name}' if name else ''}: {label}, {size(least.peak, unit)} {unit} {where}"
    if least.is_baseline:
        return f"{said}; nothing here is lighter."
    return f"{said}, {percent(least.saving)} below AdamW's." if least.saving is not None else f"{said}."


def facts(records: Sequence[Record]) -> dict[str, str]:
    """The scenario, with every value that a fact takes in these records."""
    found: dict[str, list[str]] = {"model": [plain(record.model) for record in records]}
    for key in _FACTS:
        found[key] = [spell(record.scenario[key]) for record in records if record.scenario.get(key) is not None]
    ranks = [(record.scenario.get("hyperparameters") or {}).get("rank") for record in records]
    found["rank"] = [spell(rank) for rank in ranks if rank is not None]
    return {key.replace("_", " "): ", ".join(dict.fromkeys(values)) for key, values in found.items() if values}


def embedded(value: object) -> Markup:
    """JSON that no HTML parser takes for the end of its element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _bare(record: Record) -> dict[str, Any]:
    """A record without its timeline, which the page's charts have already."""
    whole = record.to_dict()
    if whole["trace"]:
        whole["trace"]["timeline"] = None
    return whole


def _by_model(rows: Sequence[Row], unit: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for row, bar in zip(rows, stacks(rows, unit), strict=True):
        groups.setdefault(row.model, []).append(bar)
    return groups
