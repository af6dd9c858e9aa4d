"""What the witnesses say of cells. Oracles: the trace of the real code, FLOPs and bytes counted by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memprof import build_model
from memprof.api import plan
from memprof.catalogue import get_method
from memprof.ledger import Ledger
from memprof.method import BLOCK_MEANS, STEP
from memprof.papers.read import read_paper
from memprof.record import Record
from memprof.reproduce import layer
from memprof.reproduce.figures import Witnesses, counted_elements, key, method_of, scenario_of
from memprof.runner import plain

LAYER = {"q_proj": ("h", "h"), "up_proj": ("4h", "h")}


@pytest.mark.parametrize("method", ["adamw", "adam-mini", "galore", "galore-mini", "lora"])
def test_a_layer_s_elements_are_those_that_the_real_code_keeps(method: str) -> None:
    """Counted as memprof counts, the formula of a table's layers is what a step of the optimizer leaves behind."""
    paper = read_paper("galore-mini")
    table = next(each for each in paper.tables if each.id == "layer").model_copy(update={"counted_as": "memprof"})
    row = table.rows[0].model_copy(update={"method": method})
    letters = {"h": 64, "r": 8}
    model = layer.layer(table.weights or {}, letters)
    stored = layer.stored_elements(model, method_of(row, letters))
    counted = counted_elements(paper, table, row, ["optimizer_state"], letters)
    assert stored["optimizer_state"] == int(counted)


@pytest.mark.parametrize("rows", [15, 16, 40])
def test_heads_divide_the_rows(rows: int) -> None:
    model = layer.layer({"q_proj": ("h", "h")}, {"h": rows})
    assert layer.stored_elements(model, get_method("adam-mini"))["optimizer_state"] >= rows * rows


def test_a_layer_has_hugging_face_s_names_and_the_letters_shapes() -> None:
    weights = layer.weights_of(layer.layer(LAYER, {"h": 32}))
    assert {weight.name: weight.shape for weight in weights} == {
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.mlp.up_proj.weight": (128, 32),
    }


def test_a_stored_measurement_is_found_whatever_device_seed_and_counting() -> None:
    (scenario,) = plan(["9m"], ["galore:rank=8"])
    elsewhere = dataclasses.replace(scenario, device="cpu", kernels="cpu", seed=3, counting="paper:galore")
    record = Record(id=elsewhere.id, scenario=plain(elsewhere.to_dict()))
    assert key(record) == key(scenario)
    for fields in ({"rank": 4}, {"seq_len": 128}, {"batch_size": 4}, {"accumulation": 2}, {"dtype": "fp32"}):
        (other,) = plan(["9m"], ["galore"], **({"rank": 8} | fields))
        assert key(other) != key(scenario), fields


def test_a_row_s_setting_goes_before_its_column_s_and_its_table_s() -> None:
    paper = read_paper("approximations")
    table = paper.tables[0]
    fp32 = next(row for row in table.rows if "fp32" in row.label and "Adam-mini" not in row.label)
    scenario = scenario_of(paper, table, fp32, table.columns[0])
    assert (scenario.dtype, scenario.shape.vocab_size, scenario.batch_size) == ("fp32", 32_100, 48)


def test_parts_left_out_are_all_that_formula_and_code_differ_by() -> None:
    paper = read_paper("galore-mini")
    table = paper.tables[0]
    row = next(each for each in table.rows if each.label == "GaLore-mini")
    column = table.columns[1]
    figures = Witnesses().figures(paper, table, row, column)
    assert paper.convention(table, row).parts == {BLOCK_MEANS: 0.0, STEP: 0.0}
    assert figures.ours is not None and figures.stored is not None
    assert figures.stored - figures.ours == table.sizes[0]["m"]  # one mean for each row of o_proj


def test_foreach_adam_needs_what_the_page_on_galore_says() -> None:
    """papers/galore.toml, table 11: 13.39 GB with temporaries as large as the weights, where 13.60 is published."""
    model = build_model("1b", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    tokens = torch.zeros(1, 256, dtype=torch.int64, device="meta")
    model(tokens, tokens).backward()
    optimizer.step()
    with Ledger(model, optimizer) as ledger:
        optimizer.zero_grad()
        model(tokens, tokens).backward()
        optimizer.step()
    assert f"{ledger.peak / 1e9:.2f}" == "13.39"
    assert "13.39 GB by the same ledger" in read_paper("galore").tables[4].rows[0].cells[0].because


def test_bounds_are_those_of_all_devices() -> None:
    paper = read_paper("approximations")
    table = next(each for each in paper.tables if each.id == "2")
    single = table.model_copy(update={"devices": 1})
    for column in table.columns:
        if column.quantity in ("flop bound", "byte bound"):
            eight, one = (Witnesses().figures(paper, each, table.rows[0], column).ours for each in (table, single))
            assert eight is not None and one is not None and eight == pytest.approx(8 * one)


def test_the_trace_is_no_copy_of_the_formula() -> None:
    """GaLore's projector is stored and not counted: 44,040,192 elements at 350M (methods.md 4.1)."""
    paper = read_paper("approximations")
    table = paper.tables[0]
    row = next(each for each in table.rows if each.label == "GaLore")
    state = next(column for column in table.columns if column.of == "optimizer_state")
    figures = Witnesses().figures(paper, table, row, state)
    assert figures.ours is not None and figures.stored == figures.ours + 2 * 44_040_192
