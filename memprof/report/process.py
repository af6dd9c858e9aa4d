"""Where a measuring process's memory went, in one sum from the top: process = parts that are known + the rest."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from memprof.record import Measured, Record
from memprof.report.describe import labels
from memprof.units import format_size

Part = tuple[str, int | None]
READ_HOST = (
    "Resident set: the most memory that the process had, as the operating system says; before the model: Python, torch "
    "and what a first small step loads. Not explained: all that torch's allocator does not count."
)
READ_GPU = "Cached, fragmented: what the allocator had reserved and nobody held at the peak."


def parts(measured: Measured) -> list[Part]:
    """The whole first, then its parts, which sum to it where all of them are known."""
    if measured.reserved is None:
        return _resident(measured)
    cached = measured.reserved - measured.peak
    return [
        ("Process (NVML)", measured.device),
        ("context", measured.context),
        ("cached, fragmented", cached),
        ("allocated at peak", measured.peak),
        ("of it block rounding", measured.extra_by_maker.get("block rounding", 0)),
    ]


def _resident(measured: Measured) -> list[Part]:
    """On a CPU the resident set never falls, so the worst of all steps is in it."""
    worst = max(measured.peak, measured.refresh_peak or 0)
    return [
        ("Resident set", measured.device),
        ("before the model", measured.context),
        ("allocator's peak", worst),
        ("not explained", measured.residual),
    ]


def process_table(records: Sequence[Record], unit: str) -> Table | None:
    """A row for each measured record; None where nothing was measured."""
    names = dict(zip((record.id for record in records), labels(records), strict=True))
    seen = [(names[record.id], parts(record.measured)) for record in records if record.measured]
    if not seen:
        return None
    below = READ_HOST if any(name == "not explained" for name, _ in seen[0][1]) else READ_GPU
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold",
        caption=below, caption_style="dim", caption_justify="left",
    )  # fmt: skip
    table.add_column("Method")
    for name, _ in seen[0][1]:
        table.add_column(name, justify="right")
    for method, row in seen:
        table.add_row(Text(method), *("-" if size is None else format_size(size, unit) for _, size in row))
    return table
