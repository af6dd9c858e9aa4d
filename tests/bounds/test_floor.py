"""Floors and model FLOPs. Oracles: bytes and FLOPs counted by hand, and a published table of lower bounds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memprof.api import plan
from memprof.bounds.ceilings import SIZES, Ceilings, Rate
from memprof.bounds.floor import (
    Matrices,
    floor_of,
    flops_per_example,
    matrices,
    mfu,
    model_flops_per_second,
    step_flops,
    update_bytes,
)
from memprof.method import BASIS
from memprof.scenario import Scenario

P = 8_995_968
"""parameters of 9m"""
HEAD = 32_000 * 128
LINEAR = 802_816
"""elements of its 28 attention and MLP matrices"""
TENSORS = 4 * 9 + 3
STEPS = 2 * 4 * TENSORS
"""step counts, fp32, read and written"""
H200 = "NVIDIA H200"


def scenario_of(method: str, **fields: object) -> Scenario:
    return plan(["9m"], [method], **fields)[0]  # type: ignore[arg-type]


def low_rank(scenario: Scenario, rank: int) -> tuple[int, int, int]:
    """Elements of the other weights, of the low-rank moments of matrices, and of their bases."""
    others = sum(w.numel for w in scenario.weights() if not w.is_matrix)
    treated = [w.shape for w in scenario.weights() if w.is_matrix]
    return others, sum(rank * max(shape) for shape in treated), sum(rank * min(shape) for shape in treated)


@pytest.mark.parametrize(("dtype", "per_parameter"), [("bf16", 14), ("fp16", 14), ("fp32", 28)])
def test_adamw_moves_weights_and_moments_there_and_back_and_reads_gradients(dtype: str, per_parameter: int) -> None:
    """2 e_w + e_g + 4 e_s."""
    assert update_bytes(scenario_of("adamw", dtype=dtype)) == per_parameter * P + STEPS


def test_moments_of_a_precision_of_their_own_move_in_it() -> None:
    """bf16 weights, fp32 states: 4 + 2 + 16 bytes."""
    assert update_bytes(scenario_of("adamw:state_dtype=fp32")) == 22 * P + STEPS


def test_adam_mini_moves_ten_bytes_a_parameter() -> None:
    """One full moment, and a mean for each row or head: 4 + 2 + 4."""
    scenario = scenario_of("adam-mini")
    means = sum(_blocks(scenario))
    assert update_bytes(scenario) == 10 * P + 2 * 2 * means
    assert means < P / 50


def _blocks(scenario: Scenario) -> list[int]:
    """Means of Adam-mini 1.1: of a head of q and k, of a row of any other matrix, of a whole norm."""
    return [1 if len(w.shape) == 1 else w.heads if w.role in ("q", "k") else w.shape[0] for w in scenario.weights()]


def test_eight_bit_moments_move_a_byte_and_a_magnitude_for_256() -> None:
    """10.06 bytes a parameter, and 22 where a weight is so small that its moments are fp32."""
    scenario = scenario_of("adamw-8bit")
    small = sum(w.numel for w in scenario.weights() if w.numel < 4096)
    assert update_bytes(scenario) == (P - small) * 6 + (P - small) * (4 + 16 / 256) + small * 22


@pytest.mark.parametrize("options", ["", ",per_layer=true"])
def test_galore_moves_low_rank_moments_and_reads_its_basis(options: str) -> None:
    """m n (2 e_w + e_g) + 4 r n e_s + m r e_p, wherever the update runs; other weights as AdamW without step counts."""
    scenario = scenario_of(f"galore:rank=8{options}")
    others, moments, bases = low_rank(scenario, 8)
    assert update_bytes(scenario) == 6 * P + 8 * (others + moments) + 2 * bases


def test_an_error_feedback_s_residual_is_read_and_written() -> None:
    with_residual, without = (update_bytes(scenario_of(f"{name}:rank=8")) for name in ("galore-ef", "galore"))
    assert with_residual - without == 2 * 2 * LINEAR


def test_lora_moves_its_factors_and_leaves_the_frozen_weight() -> None:
    """14 bytes for each element of A and B, and for what else is trained."""
    scenario = scenario_of("lora:rank=4")
    others, *_ = low_rank(scenario, 4)
    factors = 4 * sum(sum(w.shape) for w in scenario.weights() if w.is_matrix)
    trained = len(scenario.weights()) + 28
    assert update_bytes(scenario) == 14 * (others + factors) + 8 * trained


def test_chosen_rows_move_alone_unless_all_decay() -> None:
    """Grass: gradient, moments and weight of R rows; a decay reaches every row."""
    still, decaying = (scenario_of(f"grass:rank=8{more}") for more in ("", ",weight_decay=0.1"))
    others, *_ = low_rank(still, 8)
    rows = sum(8 * w.shape[1] for w in still.weights() if w.is_matrix)
    assert update_bytes(still) == 14 * (others + rows) + 2 * 28 * 8 * 4
    anchors = 28
    assert update_bytes(decaying) - update_bytes(still) == 2 * 2 * (LINEAR + anchors - rows)


def test_integer_weights_move_as_integers_beside_a_full_gradient() -> None:
    scenario = scenario_of("q-galore:rank=8")
    costs = [scenario.method.formula(w) for w in scenario.weights() if w.is_matrix]
    weights = 2 * sum(cost.param for cost in costs)
    assert LINEAR * 2 < weights < LINEAR * 2.2
    state = sum(2 * cost.optimizer_state - cost.parts[BASIS] for cost in costs)
    others = sum(6 * w.numel + 2 * scenario.method.formula(w).optimizer_state for w in scenario.weights()
                 if not w.is_matrix)  # fmt: skip
    assert update_bytes(scenario) == weights + 2 * LINEAR + state + others


def test_of_a_window_one_slot_is_written() -> None:
    short, long = (update_bytes(scenario_of(f"microadam:window={h}")) for h in (1, 11))
    slot = sum(sum(-(-min(16384, w.numel - k) // 100) for k in range(0, w.numel, 16384)) * 4
               for w in scenario_of("adamw").weights())  # fmt: skip
    assert long - short == 10 * slot


TABLE = {
    ("60m", 128): {"adamw": 0.17, "adamw-8bit": 0.12, "adam-mini": 0.12, "galore": 0.14},
    ("130m", 256): {"adamw": 0.39, "adamw-8bit": 0.28, "adam-mini": 0.28, "galore": 0.31, "lora": 0.27},
    ("350m", 256): {"adamw": 1.07, "adamw-8bit": 0.77, "adam-mini": 0.77, "galore": 0.73, "lora": 0.54},
    ("1b", 512): {"adamw": 3.91, "adamw-8bit": 2.81, "adam-mini": 2.79, "galore": 2.54, "lora": 1.78},
    ("7b", 1024): {"galore": 12.3, "lora": 8.2},
}
"""milliseconds at an H200's 4.8 TB/s: a derivation made apart from this code, in which a basis is read twice"""


@pytest.mark.parametrize(("model", "rank"), TABLE)
def test_lower_bounds_are_those_of_the_table(model: str, rank: int) -> None:
    for method, milliseconds in TABLE[model, rank].items():
        (scenario,) = plan([model], [method], rank=rank)
        basis = sum(scenario.method.formula(w).parts.get(BASIS, 0) for w in scenario.weights())
        digits = 1 if model == "7b" else 2
        assert round((update_bytes(scenario) + basis) / 4.8e12 * 1e3, digits) == milliseconds, method


def test_flops_of_an_example_are_two_a_weight_and_token_forward_and_four_backward() -> None:
    """Attention takes 4 h s s a layer forward without its mask, and 2.5 times that backward, where it is recomputed."""
    scenario = scenario_of("adamw", batch_size=4, seq_len=32, accumulation=2)
    attention = 4 * (4 * 128 * 32 * 32)
    assert flops_per_example(scenario) == 6 * (LINEAR + HEAD) * 32 + attention + attention * 5 // 2


def test_a_frozen_weight_takes_no_flops_for_its_gradient() -> None:
    adamw, lora = (scenario_of(method, seq_len=32) for method in ("adamw", "lora:rank=4"))
    adapters = 6 * 4 * 32 * sum(sum(weight.shape) for weight in adamw.weights() if weight.is_matrix)
    assert flops_per_example(lora) == flops_per_example(adamw) - 2 * LINEAR * 32 + adapters


@pytest.mark.parametrize(
    "fields", [{}, {"dtype": "fp32"}, {"kernels": "cpu"}, {"checkpointing": True}, {"loss_chunks": 4}]
)
def test_a_step_s_flops_by_hand(fields: dict[str, object]) -> None:
    """Whatever the kernels and however the step saves memory: 6 a weight and token; attention six products of pairs
    (t, s <= t), 2 x 128 each, in 4 layers. Nothing is recomputed."""
    scenario = scenario_of("adamw", batch_size=4, seq_len=32, accumulation=2, **fields)
    pairs = 32 * 33 // 2
    assert step_flops(scenario) == 8 * (6 * (LINEAR + HEAD) * 32 + 4 * 6 * 2 * 128 * pairs)


def test_what_a_layer_makes_once_a_pass_counts_once() -> None:
    """SLTrain multiplies B and A to a weight in forward and again in backward, however many sequences there are."""
    one, two = (step_flops(scenario_of("sltrain:rank=4", batch_size=batch, seq_len=32)) for batch in (1, 2))
    made = 2 * one - two
    assert made == (2 + 2) * 2 * 4 * LINEAR  # B A twice, and the gradients of both


def ceilings(copy: float, matrix: float) -> Ceilings:
    rates = (Rate(rate, rate, rate) for rate in (copy, matrix))
    return Ceilings(dtype=torch.bfloat16, sizes=SIZES["cpu"], copy=next(rates), matrix=next(rates), tf32=None)


def test_a_floor_by_hand() -> None:
    scenario = scenario_of("adamw", batch_size=1, seq_len=32)
    nbytes, flops = 14 * P + STEPS, 6 * (LINEAR + HEAD) * 32 + 4 * 6 * 128 * 32 * 33
    floor = floor_of(scenario, ceilings(1e9, 1e12), 0.5, 0.25)
    assert (floor.optimizer_bytes, floor.flops) == (nbytes, flops)
    assert floor.optimizer_seconds == nbytes / 1e9
    assert floor.seconds == pytest.approx(nbytes / 1e9 + flops / 1e12)
    assert floor.optimizer_ratio == pytest.approx(0.25e9 / nbytes)
    assert floor.ratio == pytest.approx(0.5 / floor.seconds)
    assert (floor.copy_bytes_per_second, floor.matrix_flops_per_second) == (1e9, 1e12)


def test_what_was_not_timed_has_no_ratio() -> None:
    floor = floor_of(scenario_of("adamw", seq_len=32), ceilings(1e9, 1e12), None, None)
    assert (floor.ratio, floor.optimizer_ratio) == (None, None)


def test_an_update_inside_backward_has_no_phase_to_compare() -> None:
    floor = floor_of(scenario_of("galore:per_layer=true", seq_len=32), ceilings(1e9, 1e12), 0.5, 0.001)
    assert floor.optimizer_ratio is None and floor.ratio is not None and floor.optimizer_bytes > 6 * P


@pytest.mark.parametrize("method", ["adamw", "galore:rank=8", "q-galore:rank=8", "grass:rank=8", "muon", "sgd"])
def test_a_weight_in_full_counts_whatever_it_is_stored_as(method: str) -> None:
    assert matrices(scenario_of(method)) == Matrices(frozen=0, trained=LINEAR + HEAD)


def test_adapters_count_beside_the_weights_they_leave_frozen() -> None:
    factors = 4 * sum(sum(w.shape) for w in scenario_of("adamw").weights() if w.is_matrix)
    assert matrices(scenario_of("lora:rank=4")) == Matrices(frozen=LINEAR, trained=factors + HEAD)
    assert matrices(scenario_of("low-rank:rank=4")) == Matrices(frozen=0, trained=factors + HEAD)


@pytest.mark.parametrize("method", ["sltrain:rank=4", "loqt:rank=4"])
def test_parts_of_a_weight_do_not_say_what_is_multiplied(method: str) -> None:
    scenario = scenario_of(method)
    assert matrices(scenario) is None and model_flops_per_second(scenario, 1.0) is None
    share, reason = mfu(scenario, 1.0, H200)
    assert share is None and method.partition(":")[0] in reason


def test_a_tied_embedding_is_a_head() -> None:
    (scenario,) = plan(["llama3.2-1b"], ["adamw"])
    treated = sum(w.numel for w in scenario.weights() if w.is_matrix)
    assert matrices(scenario) == Matrices(frozen=0, trained=treated + 128_256 * 2048)


def test_mfu_by_hand() -> None:
    """6 x (802,816 + 4,096,000) + 12 x 4 x 128 x 256 FLOPs a token, 256 tokens, 100,000 examples a second."""
    scenario = scenario_of("adamw", seq_len=256)
    done = (6 * 4_898_816 + 12 * 4 * 128 * 256) * 256 * 1e5
    share, reason = mfu(scenario, 1e5, H200)
    assert model_flops_per_second(scenario, 1e5) == done
    assert share == pytest.approx(done / 989.5e12)
    for said in ("6 N + 12 L A T", "not halved", "N = 4.9 M", "989.5 TFLOP/s", "dense bf16", "H200 datasheet"):
        assert said in reason, said


def test_mfu_of_adapters_by_hand() -> None:
    scenario = scenario_of("lora:rank=4", seq_len=256)
    counted = matrices(scenario)
    assert counted is not None
    done = (4 * counted.frozen + 6 * counted.trained + 12 * 4 * 128 * 256) * 256
    share, reason = mfu(scenario, 1.0, H200)
    assert share == pytest.approx(done / 989.5e12) and "4 F + 6 N + 12 L A T" in reason and "F = 0.8 M" in reason


@pytest.mark.parametrize(
    ("dtype", "gpu", "why"),
    [
        ("bf16", None, "CPU"),
        ("bf16", "NVIDIA GeForce GTX 1080", "no data sheet of NVIDIA GeForce GTX 1080"),
        ("bf16", "Tesla V100-SXM2-32GB", "V100 datasheet gives no peak for bf16"),
    ],
)
def test_no_mfu_without_a_peak(dtype: str, gpu: str | None, why: str) -> None:
    share, reason = mfu(scenario_of("adamw", dtype=dtype), 1.0, gpu)
    assert share is None and why in reason


def test_products_that_may_round_to_tf32_are_held_against_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = scenario_of("adamw", dtype="fp32")
    plain, why = mfu(scenario, 1.0, H200)
    monkeypatch.setattr("memprof.bounds.floor.allows_tf32", lambda: True)
    rounded, why_rounded = mfu(scenario, 1.0, H200)
    assert plain is not None and rounded == pytest.approx(plain * 67 / 494.5)
    assert mfu(scenario, 1.0, H200, tf32=False) == (plain, why), "as whoever ran the steps says"
    assert "67 TFLOP/s, dense fp32" in why and "494.5 TFLOP/s, dense tf32" in why_rounded


def test_counting_leaves_the_random_numbers_of_others_alone() -> None:
    before = torch.get_rng_state()
    step_flops(dataclasses.replace(scenario_of("lora:rank=2", seq_len=16), seed=5))
    assert torch.equal(torch.get_rng_state(), before)
