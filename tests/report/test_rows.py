"""Rows: who speaks, and how a record stands against AdamW. All expectations by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memprof.errors import MemprofError
from memprof.record import COMPARED, Record
from memprof.report.columns import SHORT
from memprof.report.describe import labels, plain, scenario_line
from memprof.report.rows import make_rows

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
    sizes = (2, 2, 4, 1, 1)
    limit = 10 * GIB
    assert make_rows([record(sizes=sizes)], fits=limit)[0].fits is True
    assert make_rows([record(sizes=sizes)], fits=limit - 1)[0].fits is False
    assert make_rows([record(sizes=sizes, reserved=11 * GIB)], fits=limit)[0].fits is False
    assert make_rows([record(sizes=sizes, refresh=11 * GIB)], fits=limit)[0].fits is False
    assert make_rows([record(sizes=sizes)])[0].fits is None


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


def test_plain_text_is_one_printable_line() -> None:
    assert plain("a\nb\t\x1b[1mc\x00") == "a b c"


def test_every_key_that_may_differ_most_has_its_word() -> None:
    assert set(COMPARED) <= SHORT.keys()
