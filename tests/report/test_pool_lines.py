"""What an allocator would hold, as text. Oracle: sums by hand, of a made-up pool."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from memprof.record import Pool, Record
from memprof.report.pool_lines import COLUMNS, pool_lines

Make = Callable[..., Record]
GIB = 2**30
POOL = Pool(
    allocated=10 * GIB,
    requested=9 * GIB,
    workspaces={"cuBLAS": 2 * GIB, "flash attention": GIB},
    reserved=15 * GIB,
    fragmentation=3 * GIB,
    cached=2 * GIB,
    reserved_expandable=12 * GIB,
    gpu="sm90",
)


def pooled(record: Make, method: str = "adamw", **facts: object) -> Record:
    made = record(method, **facts)
    assert made.trace is not None
    return replace(made, trace=replace(made.trace, pool=POOL, reserved=POOL.reserved))


def shown(records: list[Record], width: int) -> str:
    file = io.StringIO()
    (found,) = pool_lines(records, "GiB")
    Console(width=width, file=file).print(found)
    return file.getvalue()


def test_each_sum_is_that_of_the_columns_after_it() -> None:
    reserved, cached, fragments, allocated, tensors, workspaces, rounding, expandable = (
        read(POOL) for _, read in COLUMNS
    )
    assert POOL.broken() is None
    assert reserved == cached + fragments + allocated and allocated == tensors + workspaces + rounding
    assert (tensors, workspaces, rounding, expandable) == (6 * GIB, 3 * GIB, GIB, 12 * GIB)


def test_figures_stand_in_their_columns_and_workspaces_have_names(record: Make) -> None:
    text = shown([pooled(record), pooled(record, "galore")], 80)
    assert "adamw      15.00    2.00       3.00      10.00     6.00    3.00    1.00    12.00" in text
    assert "Workspaces, of an H100 or H200 (sm90): cuBLAS, flash attention." in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_long_name_folds_before_a_figure_is_cut(record: Make) -> None:
    text = shown([pooled(record, "m" * 40)], 80)
    assert "m" * 40 not in text and "15.00" in text and "12.00" in text


def test_only_traces_that_stand_for_a_gpu_have_a_pool(record: Make) -> None:
    assert pool_lines([record(), record("galore", trace=False)], "GiB") == []
    titles = [found.title for found in pool_lines([pooled(record), pooled(record, model="60m")], "GiB")]
    assert titles == ["1b: what CUDA's allocator would hold", "60m: what CUDA's allocator would hold"]
