"""Countings. Oracles: what optimizers really keep, by the names of their states; the totals that a paper prints."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from memprof import build_model, get_method
from memprof.api import plan, profile
from memprof.catalogue import METHODS
from memprof.counting import APPROXIMATIONS, COUNTINGS, GALORE, MEMPROF, Counting, get_counting
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.method import BASIS, BLOCK_MEANS, STEP, named_weights
from memprof.report.captions import HOW_COUNTED, caption
from memprof.report.rows import make_rows
from memprof.scenario import Scenario
from memprof.shapes import SHAPES

GIB = 2**30
STATE_NAMES = {BASIS: "basis", BLOCK_MEANS: "vmean", STEP: "step"}
"""how the optimizers' own states are called that make up each part"""


def scenario(method: str = "adamw", **fields: Any) -> Scenario:
    return plan(["350m"], [method], **({"rank": 256, "vocab_size": 32_100} | fields))[0]


@pytest.mark.parametrize("name", METHODS)
def test_parts_are_what_the_optimizer_keeps_under_these_names(name: str) -> None:
    model = build_model("9m", num_layers=1, vocab_size=64)
    weights = [weight for weight, _ in named_weights(model)]
    method = get_method(name).bind(weights)
    optimizer = method.prepare(model)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    model(tokens, tokens).backward()
    optimizer.step()
    kept = dict.fromkeys(STATE_NAMES, 0)
    for state in optimizer.state.values():
        for key, value in state.items():
            for part, prefix in STATE_NAMES.items():
                if key.startswith(prefix) and isinstance(value, torch.Tensor):
                    kept[part] += value.untyped_storage().nbytes()
    footprints = [method.formula(weight) for weight in weights]
    assert {part: sum(cost.parts.get(part, 0) for cost in footprints) for part in STATE_NAMES} == kept
    assert all(sum(cost.parts.values()) <= cost.optimizer_state for cost in footprints)


@pytest.mark.parametrize(
    ("method", "total"), [("adamw", 3.11), ("galore", 2.26), ("galore-ef", 2.83), ("relora", 2.31)]
)
def test_a_paper_s_total_comes_out_to_its_last_digit(method: str, total: float) -> None:
    """Totals that the text of "Approximations may be all you need" states, in GiB."""
    counted = formula(scenario(method), APPROXIMATIONS)
    assert round(counted.total / GIB, 2) == total
    assert counted.peak == counted.total == sum(counted.peak_by_category.values())


def test_one_sequence_is_counted_whatever_the_batch() -> None:
    small, large = (formula(scenario(batch_size=batch), APPROXIMATIONS) for batch in (1, 48))
    assert small.activation == large.activation == 24 * 256 * 1024 * (32 + 5 * 16 * 256 // 1024)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_frozen_is_never_trained_by_the_optimizer(name: str) -> None:
    """Oracle: the parameters that require a gradient, and those whose values a step of the real code changes."""
    model = build_model("9m", num_layers=1, vocab_size=64)
    weights = [weight for weight, _ in named_weights(model)]
    method = get_method(name).bind(weights)
    method.prepare(model)
    costs = [(weight, method.formula(weight)) for weight in weights]
    stored = sum(cost.param for _, cost in costs)
    trainable = Counting(sums=True, params="trainable").param(costs)
    trains = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    frozen = sum(p.nbytes for p in (*model.parameters(), *model.buffers()) if not p.requires_grad)
    written = name in ("q-galore", "grass")  # their optimizers write weights that autograd does not see
    if not written and name != "loqt":  # one element anchors its W
        assert (stored - trainable, trainable) == (frozen, trains)
    counted = Counting(sums=True, params="model and trainable").param(costs)
    again = sum(weight.nbytes for weight in weights if not weight.is_matrix)
    assert counted == stored + (again if keeps_plain_weights(model) and not written else 0)


def keeps_plain_weights(model: torch.nn.Module) -> bool:
    """Whether a plain weight of a layer is there and frozen."""
    layer: Any = model.get_submodule("model.layers.0.mlp.up_proj")
    weight = getattr(layer, "weight", None)
    return isinstance(weight, torch.nn.Parameter) and weight.ndim == 2 and not weight.requires_grad


def test_what_a_paper_leaves_out_is_not_in_its_sum() -> None:
    """GaLore's table 2: weights and optimizer state alone, 2.06 for full rank at 350M."""
    counted = formula(scenario("adamw", vocab_size=None), GALORE)
    assert (counted.grad, counted.activation, counted.extra) == (0, 0, 0)
    assert counted.total == counted.param + counted.optimizer_state
    assert round(counted.total / GIB, 2) == 2.06
    per_layer = formula(scenario("galore:per_layer=true"), APPROXIMATIONS)
    assert per_layer.grad == 0 < formula(scenario("galore"), APPROXIMATIONS).grad


def test_state_that_is_kept_once_is_counted_too() -> None:
    eight_bit = scenario("adamw-8bit")
    assert formula(eight_bit, GALORE).optimizer_state == formula(eight_bit).optimizer_state
    assert eight_bit.method.shared() > 0


def test_a_sum_is_no_steady_state_and_one_sequence_knows_no_key_value_heads() -> None:
    counted = formula(scenario("adamw"), APPROXIMATIONS)
    assert counted.steady == counted.param + counted.optimizer_state < counted.total
    grouped = plan(["llama3.2-1b"], ["adamw"], counting="paper:approximations", vocab_size=32_100)[0]
    assert formula(grouped).activation == 16 * 256 * (32 * 2048 + 5 * 32 * 256)


def test_a_part_may_be_counted_otherwise_in_a_real_step() -> None:
    galore = scenario("galore")
    ours, lighter = formula(galore), formula(galore, Counting(parts={BASIS: 0.5}))
    basis = 24 * (4 + 3) * 256 * 1024 * 2
    assert ours.optimizer_state - lighter.optimizer_state == ours.peak - lighter.peak == basis // 2
    assert lighter.peak_phase == ours.peak_phase


def test_a_share_counts_that_much_of_a_part() -> None:
    galore = scenario("galore")
    whole = formula(galore, dataclasses.replace(APPROXIMATIONS, parts={})).optimizer_state
    half = formula(galore, dataclasses.replace(APPROXIMATIONS, parts={BASIS: 0.5})).optimizer_state
    none = formula(galore, dataclasses.replace(APPROXIMATIONS, parts={BASIS: 0.0})).optimizer_state
    assert whole - half == half - none == 24 * (4 + 3) * 256 * 1024 * 2 // 2


def test_trained_weights_count_twice_only_beside_frozen_ones() -> None:
    lora, low_rank, adamw = (formula(scenario(name), GALORE).param for name in ("lora", "low-rank", "adamw"))
    assert lora == adamw + low_rank
    assert adamw == formula(scenario("adamw")).param


def test_trainable_parameters_are_those_with_a_gradient() -> None:
    counted = formula(scenario("relora"), dataclasses.replace(APPROXIMATIONS, params="trainable"))
    assert counted.param == counted.grad < formula(scenario("relora")).param


def test_a_scenario_is_counted_as_it_says_and_brings_its_vocabulary() -> None:
    counted = scenario("galore", vocab_size=None, counting="paper:approximations")
    assert counted.shape.vocab_size == 32_100
    assert formula(counted) == formula(scenario("galore"), APPROXIMATIONS)
    asked = scenario("galore", vocab_size=500, counting="paper:approximations")
    assert asked.shape.vocab_size == 500
    zoo = scenario("galore", vocab_size=32_000, counting="paper:approximations")
    assert zoo.shape.vocab_size == 32_000, "what is asked for stands"


def test_a_vocabulary_of_the_model_s_own_stays() -> None:
    """The papers' 32,100 stand for the 32,000 of their zoo, not for LLaMA 3's 128,256."""
    (llama3,) = plan(["llama3-8b"], ["adamw"], counting="paper:approximations")
    assert llama3.shape == SHAPES["llama3-8b"]
    assert APPROXIMATIONS.applied_to(SHAPES["350m"]) == dataclasses.replace(SHAPES["350m"], vocab_size=32_100)
    assert MEMPROF.applied_to(SHAPES["350m"]) == SHAPES["350m"]


def test_memprof_s_own_counting_has_instants_and_the_papers_have_none() -> None:
    assert formula(scenario()).peak_phase in ("backward", "optimizer")
    assert {formula(scenario(), each).peak_phase for each in COUNTINGS.values() if each.sums} == {"sum"}
    assert get_counting("memprof") is MEMPROF


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"params": "some"}, "params 'some' is unknown"),
        ({"grads": "some"}, "grads 'some' is unknown"),
        ({"params": "trainable"}, "only a sum leaves categories out"),
        ({"largest_tensor": True}, "only a sum leaves categories out"),
        ({"activation": "all"}, "activation 'all' is unknown"),
        ({"parts": {"projector": 0}}, "part 'projector' is unknown; choose from basis"),
        ({"parts": {BASIS: 1.5}}, "basis at 1.5 is out of range"),
    ],
)
def test_an_unknown_convention_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(MemprofError, match=f"^counting: {said}"):
        Counting(**fields)


@pytest.mark.parametrize("name", ["paper", "paper:", "", None, 5, ["memprof"]])
def test_an_unknown_counting_names_those_there_are(name: Any) -> None:
    with pytest.raises(MemprofError, match="unknown counting .*choose from memprof, paper:approximations"):
        get_counting(name)


def test_a_table_says_that_a_paper_s_peak_is_a_sum() -> None:
    record = profile("9m", "adamw", counting="paper:approximations")
    rows = make_rows([record])
    assert HOW_COUNTED in " ".join(caption(rows, "GiB", ["Peak"]))
    assert HOW_COUNTED not in " ".join(caption(make_rows([record], by="trace"), "GiB", ["Peak"]))
    assert "counted as paper:approximations" in caption(rows, "GiB", ["Peak"])[0]
