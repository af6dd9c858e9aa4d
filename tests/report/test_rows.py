"""Rows: who speaks, and how a record stands against AdamW. All expectations by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from memprof.errors import MemprofError
from memprof.record import COMPARED, Pool, Record
from memprof.report.columns import SHORT
from memprof.report.describe import labels, plain, scenario_line
from memprof.report.rows import make_rows, peak_name, suitable_unit

GIB = 2**30
Make = Callable[..., Record]


def test_categories_at_the_peak_sum_to_the_peak(record: Make) -> None:
    row = make_rows([record("galore", (3, 1, 4, 1, 5), formula_off=7)], by="formula")[0]
    assert row.memory is not None
    assert sum(row.memory.peak_by_category.values()) == row.peak == 14 * GIB + 7


def test_saving_by_hand(record: Make) -> None:
    rows = make_rows(
        [record("adamw", (2, 2, 4, 1, 1)), record("lora", (2, 0, 0, 2, 1)), record("soap", (2, 2, 8, 1, 2))]
    )
    assert [row.saving for row in rows] == [0.0, 0.5, -0.5]
    assert [row.is_baseline for row in rows] == [True, False, False]


@pytest.mark.parametrize("other", [{"batch_size": 16}, {"model": "60m"}, {"dtype": "fp32"}, {"num_layers": 2}])
def test_no_saving_against_another_scenario(record: Make, other: dict[str, Any]) -> None:
    rows = make_rows([record("adamw"), record("lora", (2, 0, 0, 2, 1), **other)])
    assert rows[1].saving is None and rows[1].saving_by is None


def test_hyperparameters_do_not_part_a_method_from_its_baseline(record: Make) -> None:
    rows = make_rows([record("adamw"), record("lora", (2, 0, 0, 2, 1), hyperparameters={"rank": 8})])
    assert rows[1].saving == 0.5


def test_neither_do_the_names_of_those_that_were_given(record: Make) -> None:
    rows = make_rows([record("adamw", given=[]), record("lora", (2, 0, 0, 2, 1), given=["alpha"])])
    assert rows[1].saving == 0.5


def test_strongest_witness_speaks_unless_one_is_named(record: Make) -> None:
    measured, traced, by_formula = record(speed=10.0), record("lora"), record("lomo", trace=False)
    assert [row.witness for row in make_rows([measured, traced, by_formula])] == ["measured", "trace", "formula"]
    assert [row.witness for row in make_rows([measured, traced, by_formula], by="trace")] == ["trace", "trace", None]
    with pytest.raises(MemprofError, match="choose from formula, trace, measured"):
        make_rows([measured], by="guess")


def test_a_measured_peak_is_never_set_against_a_traced_one(record: Make) -> None:
    adamw = record("adamw", (2, 2, 4, 1, 1), status="oom", reason="out of memory")
    row = make_rows([adamw, record("lora", (2, 0, 0, 2, 1), speed=9.0)])[1]
    assert (row.witness, row.saving, row.saving_by) == ("measured", 0.5, "trace")


def test_fits_weighs_reserved_bytes_and_refresh_steps(record: Make) -> None:
    """Between what is alive and what the allocator would hold it is tight: segments must be given back meanwhile."""
    sizes = (2, 2, 4, 1, 1)
    limit = 10 * GIB
    assert make_rows([record(sizes=sizes)], fits=limit)[0].fits == "yes"
    assert make_rows([record(sizes=sizes)], fits=limit - 1)[0].fits == "no"
    assert make_rows([record(sizes=sizes, reserved=11 * GIB)], fits=limit)[0].fits == "tight"
    assert make_rows([record(sizes=sizes, reserved=11 * GIB)], fits=11 * GIB)[0].fits == "yes"
    assert make_rows([record(sizes=sizes, refresh=11 * GIB)], fits=limit)[0].fits == "no"
    assert make_rows([record(sizes=sizes)])[0].fits is None


def test_what_fits_counts_the_workspaces_that_no_dispatcher_sees(record: Make) -> None:
    """The peak is 10 GiB of tensors, in 11 GiB of blocks with workspaces, of 12 GiB reserved."""
    traced = record(sizes=(2, 2, 4, 1, 1), reserved=12 * GIB)
    assert traced.trace is not None
    pool = Pool(allocated=11 * GIB, requested=11 * GIB, reserved=12 * GIB, fragmentation=0, cached=GIB,
                reserved_expandable=11 * GIB)  # fmt: skip
    traced = replace(traced, trace=replace(traced.trace, pool=pool))
    assert [make_rows([traced], fits=size * GIB)[0].fits for size in (10, 11, 12)] == ["no", "tight", "yes"]


def test_fits_is_judged_by_who_sees_instants_and_never_by_a_sum(record: Make) -> None:
    """The sum is 2 GiB, the traced peak 10 and the reserved bytes of a measurement 11."""
    traced, measured = record(summed=(1, 0, 1, 0, 0)), record(summed=(1, 0, 1, 0, 0), speed=1.0, reserved=11 * GIB)
    alone = record(summed=(1, 0, 1, 0, 0), trace=False)
    assert [row.fits for row in make_rows([traced, measured], fits=3 * GIB)] == ["no", "no"]
    assert [row.fits for row in make_rows([traced, measured], fits=10 * GIB)] == ["yes", "tight"]
    assert [row.fits_by for row in make_rows([traced, measured], fits=10 * GIB)] == ["trace", "measured"]
    assert make_rows([alone], fits=3 * GIB)[0].fits is None
    assert make_rows([record(trace=False)], fits=10 * GIB)[0].fits == "yes", "memprof's own formula sees instants"


def test_a_paper_s_counting_is_shown_by_the_formula_unless_another_is_asked_for(record: Make) -> None:
    counted = [record(summed=(1, 0, 1, 0, 0)), record("lora", (2, 0, 0, 2, 1), summed=(1, 0, 0, 0, 0), speed=1.0)]
    rows = make_rows(counted)
    assert [(row.witness, row.peak, row.saving, row.is_sum) for row in rows] == [
        ("formula", 2 * GIB, 0.0, True),
        ("formula", GIB, 0.5, True),
    ]
    assert [(row.paper_total, row.difference) for row in rows] == [(None, None)] * 2
    traced = make_rows(counted, by="trace")
    assert [(row.witness, row.peak, row.is_sum) for row in traced] == [
        ("trace", 10 * GIB, False),
        ("trace", 5 * GIB, False),
    ]
    assert [row.difference for row in traced] == [None, None], "a difference of conventions"
    assert peak_name(rows) == "sum" and peak_name(traced) == "peak" and peak_name([*rows, *traced]) == "peak or sum"


def test_a_traced_peak_is_never_set_against_a_sum(record: Make) -> None:
    adamw, lora = record(trace=False, summed=(1, 0, 1, 0, 0)), record("lora", summed=(1, 0, 0, 0, 0))
    assert make_rows([adamw, lora], by="trace")[1].saving is None


def test_the_unit_suits_what_is_shown(record: Make) -> None:
    assert suitable_unit([record(unit=2**20, summed=(1, 0, 1, 0, 0))]) == "MiB"
    assert suitable_unit([record(unit=2**24, summed=(0, 0, 0, 0, 0))]) == "MiB", "0.16 GiB by trace, which is not shown"


def test_largest_difference_by_hand(record: Make) -> None:
    assert make_rows([record(formula_off=GIB)])[0].difference == ("peak", 0.1)
    assert make_rows([record(trace=False)])[0].difference is None


def test_failed_record_keeps_its_reason_and_has_no_figures(record: Make) -> None:
    failed = record("dora", formula=False, trace=False, status="oom", reason="CUDA\n\x1b[31mout of memory")
    row = make_rows([record(), failed], fits=GIB)[1]
    assert (row.status, row.reason) == ("oom", "CUDA out of memory")
    assert (row.peak, row.saving, row.fits, row.difference) == (None, None, None, None)


def test_labels_name_only_what_tells_records_apart(record: Make) -> None:
    narrow, wide = ({"lr": 0.1, "rank": rank} for rank in (8, 16))
    records = [record("lora", hyperparameters=narrow), record("lora", hyperparameters=wide), record("lomo")]
    assert labels(records) == ["lora rank=8", "lora rank=16", "lomo"]
    assert labels([record(), record(batch_size=1)]) == ["adamw batch_size=8", "adamw batch_size=1"]
    assert labels([record(), record(model="60m", num_layers=8)]) == ["adamw", "adamw"]


def test_scenario_says_what_is_shared_and_what_is_unusual(record: Make) -> None:
    ranks = [record("lora", hyperparameters={"rank": 8}), record("galore", hyperparameters={"rank": 8})]
    odd = record("apollo_mini", hyperparameters={"rank": 1})
    assert scenario_line(ranks) == "24 layers, batch 8, seq 256, bf16, cuda-flash kernels, rank 8"
    assert scenario_line([*ranks, odd]).endswith("rank 8 (apollo_mini 1)")
    odder = record("alpha", hyperparameters={"rank": 2})
    assert scenario_line([*ranks, odd, odder]).endswith("rank 8 (apollo_mini 1, alpha 2)"), "in the table's order"
    assert scenario_line([record(num_layers=1)]).startswith("1 layer, batch 8")
    assert "batch" not in scenario_line([record(), record(batch_size=1)])
    assert "accumulation 4" in scenario_line([record(accumulation=4)])


def test_a_counting_names_its_vocabulary(record: Make) -> None:
    galore, llama3 = record(summed=(1, 0, 1, 0, 0)), record(summed=(1, 0, 1, 0, 0), model="llama3", vocab_size=128256)
    own = record("lora", summed=(1, 0, 1, 0, 0), model="60m")
    assert "formula counted as paper:galore, vocabulary 32000" in scenario_line([galore])
    assert "vocabulary 32000 (llama3 128256)" in scenario_line([galore, own, llama3])
    assert "vocabulary" not in scenario_line([record()])
    assert "vocabulary" not in scenario_line([galore, record(summed=(1, 0, 1, 0, 0), vocab_size=500)]), "labels say it"


def test_plain_text_is_one_printable_line() -> None:
    assert plain("a\nb\t\x1b[1mc\x00") == "a b c"


def test_every_key_that_may_differ_most_has_its_word() -> None:
    assert set(COMPARED) <= SHORT.keys()
