"""GaLore's sides, inner optimizers and per-layer mode: shapes by hand, and what must not change from mode to mode."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.api import plan
from memprof.batches import synthetic_batch
from memprof.catalogue import get_method
from memprof.errors import MemprofError
from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.galore import GaLore
from memprof.methods.parts.blockwise import moment_bytes
from memprof.methods.parts.galore_optimizer import GaLoreOptimizer
from memprof.methods.parts.sides import Projection

CPU = torch.device("cpu")
TALL, WIDE, SQUARE = (12, 7), (7, 12), (9, 9)
SIDES = ("std", "reverse_std", "left", "right", "full")
VOCABULARY = 64


def tiny(dtype: torch.dtype = torch.float32, **fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return build_model("9m", dtype=dtype, num_layers=2, vocab_size=VOCABULARY, **fields)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [synthetic_batch(2, 16, VOCABULARY, CPU) for _ in range(count)]


def trained(method: GaLore, steps: int = 5, **fields: Any) -> tuple[LlamaForCausalLM, GaLoreOptimizer]:
    model = tiny(**fields)
    optimizer = method.prepare(model)
    for batch in batches(steps):
        model(*batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


# --- sides -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "shape", "bases", "low"),
    [
        ("std", TALL, [(2, 7)], (12, 2)),
        ("std", WIDE, [(7, 2)], (2, 12)),
        ("std", SQUARE, [(2, 9)], (9, 2)),
        ("reverse_std", TALL, [(12, 2)], (2, 7)),
        ("reverse_std", WIDE, [(2, 12)], (7, 2)),
        ("left", TALL, [(12, 2)], (2, 7)),
        ("left", SQUARE, [(9, 2)], (2, 9)),
        ("right", WIDE, [(2, 12)], (7, 2)),
        ("full", TALL, [(12, 2), (2, 7)], (2, 2)),
        ("full", WIDE, [(7, 2), (2, 12)], (2, 2)),
    ],
)
def test_shapes_are_galore_torchs(
    side: str, shape: tuple[int, int], bases: list[tuple[int, int]], low: tuple[int, int]
) -> None:
    projection = Projection.of(shape, 2, side)
    assert (list(projection.bases.values()), projection.low) == (bases, low)
    weight = Weight("model.layers.0.self_attn.q_proj.weight", Role.Q, shape, 1, 2)
    elements = sum(m * n for m, n in bases) + 2 * low[0] * low[1]
    assert GaLore(rank=2, side=side).formula(weight).optimizer_state == 2 * elements


@pytest.mark.parametrize(("side", "shape"), list(itertools.product(SIDES, (TALL, WIDE, SQUARE))))
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_there_and_back_is_the_best_approximation_of_the_rank(side: str, shape: tuple[int, int], rank: int) -> None:
    torch.manual_seed(0)
    grad = torch.randn(shape, dtype=torch.float64)
    projection = Projection.of(shape, rank, side)
    bases, finite = projection.top(grad)
    low, between = grad.new_zeros(projection.low), grad.new_zeros(projection.between)
    projection.project(grad, bases, out=low, between=between)
    left, right = projection.factors(low, bases, between)
    u, s, vh = torch.linalg.svd(grad, full_matrices=False)
    torch.testing.assert_close(left @ right, u[:, :rank] * s[:rank] @ vh[:rank])
    assert {key: tuple(basis.shape) for key, basis in bases.items()} == projection.bases
    assert finite


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_flagged_and_raises_nothing(side: str, bad: float) -> None:
    grad = torch.randn(TALL)
    grad[2, 3] = bad
    assert not Projection.of(TALL, 2, side).top(grad)[1]


def test_an_unknown_side_or_inner_optimizer_names_the_known() -> None:
    with pytest.raises(MemprofError, match="galore: side='both' is unknown; choose from std, reverse_std, left"):
        GaLore(side="both")
    with pytest.raises(MemprofError, match="galore: inner='lion' is unknown; choose from adamw, adafactor, adamw-8bit"):
        GaLore(inner="lion")


# --- inner optimizers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["adamw", "adamw-8bit"])
def test_a_first_moment_that_the_inner_optimizer_does_not_have_is_an_error(inner: str) -> None:
    with pytest.raises(MemprofError, match=f"galore-ef: beta1=0.9 needs inner=adafactor; {inner} takes betas=0.9/0.9"):
        get_method(f"galore-ef:beta1=0.9,inner={inner}")


@pytest.mark.parametrize("beta1", [None, 0.9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_states_of_inner_adafactor_are_the_formulas_bytes(dtype: torch.dtype, beta1: float | None) -> None:
    method = GaLore(rank=8, inner="adafactor", beta1=beta1)
    _, optimizer = trained(method, steps=1, dtype=dtype)
    for p, weight in optimizer.weight_of.items():
        held = sum(t.nbytes for t in optimizer.state[p].values())
        assert held == method.formula(weight).optimizer_state, weight.name


def test_adafactor_keeps_rows_and_columns_of_the_low_rank_gradient_in_fp32() -> None:
    _, optimizer = trained(GaLore(rank=8, inner="adafactor", beta1=0.9), dtype=torch.bfloat16)
    for p, w in optimizer.weight_of.items():
        state = optimizer.state[p]
        if w.is_matrix:
            rows, columns = Projection.of(w.shape, 8).low
            assert state["basis"].dtype == torch.bfloat16
            assert (state["exp_avg_sq_row"].shape, state["exp_avg_sq_col"].shape) == ((rows,), (columns,))
            assert state["exp_avg"].shape == (rows, columns)
        assert {t.dtype for key, t in state.items() if key != "basis"} == {torch.float32}


def test_8bit_moments_are_codes_of_the_low_rank_gradient() -> None:
    _, optimizer = trained(GaLore(rank=64, inner="adamw-8bit"), dtype=torch.bfloat16)
    for p, weight in optimizer.weight_of.items():
        state = optimizer.state[p]
        shape = Projection.of(weight.shape, 64).low if weight.is_matrix else weight.shape
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == shape
        assert state["exp_avg"].dtype == (torch.float32 if len(shape) == 1 else torch.uint8)
        held = sum(t.nbytes for key, t in state.items() if key.startswith("exp_avg"))
        assert held == moment_bytes(state["exp_avg"].numel())


def test_8bit_with_moments_too_small_for_codes_is_adamw() -> None:
    """A matrix of 64 x 32 at rank 8: 512 numbers a moment stay in fp32. The eps is AdamW's after bias correction."""
    torch.manual_seed(0)
    start, grads = torch.randn(64, 32), [torch.randn(64, 32) for _ in range(5)]
    found = []
    for inner in ("adamw", "adamw-8bit"):
        model = nn.Module()
        model.q_proj = nn.Linear(32, 64, bias=False)
        model.q_proj.weight = nn.Parameter(start.clone())
        method = GaLore(rank=8, update_gap=2, inner=inner, eps=1e-12, weight_decay=0.1)
        optimizer = method.prepare(model)
        for grad in grads:
            model.q_proj.weight.grad = grad.clone()
            optimizer.step()
        found.append(model.q_proj.weight.detach())
    torch.testing.assert_close(found[0], found[1])


# --- per layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["adamw", "adafactor", "adamw-8bit"])
@pytest.mark.parametrize("tied", [False, True])
def test_per_layer_makes_the_same_steps(inner: str, tied: bool) -> None:
    method = GaLore(rank=8, update_gap=2, inner=inner, weight_decay=0.1)
    ordinary, _ = trained(method, tie_word_embeddings=tied)
    per_layer, optimizer = trained(dataclasses.replace(method, per_layer=True), tie_word_embeddings=tied)
    assert same(ordinary, per_layer)
    assert [group["step"] for group in optimizer.param_groups] == [5, 5]


def test_per_layer_leaves_no_gradient_and_step_calls_closure_and_hooks() -> None:
    model = tiny()
    optimizer = GaLore(rank=8, per_layer=True).prepare(model)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    batch = batches(1)[0]

    def closure() -> float:
        seen.append("closure")
        loss: Tensor = model(*batch)
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        return loss.item()

    before = [p.detach().clone() for p in model.parameters()]
    assert optimizer.step(closure) == pytest.approx(4.16, abs=0.2)
    assert seen == ["before", "closure", "after"]
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_requested_refresh_reaches_every_weight_of_the_next_backward() -> None:
    method = GaLore(rank=8, update_gap=100)
    results = []
    for per_layer in (False, True):
        model = tiny()
        optimizer = dataclasses.replace(method, per_layer=per_layer).prepare(model)
        for number, batch in enumerate(batches(4)):
            if number == 2:
                optimizer.request_refresh()
            model(*batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(model)
    assert same(*results)


def test_an_optimizer_that_is_gone_updates_nothing() -> None:
    model = tiny()
    optimizer = GaLore(rank=8, per_layer=True).prepare(model)
    del optimizer
    gc.collect()
    before = [p.detach().clone() for p in model.parameters()]
    model(*batches(1)[0]).backward()
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_per_layer_refuses_to_accumulate() -> None:
    with pytest.raises(MemprofError, match="galore updates inside backward and cannot accumulate"):
        plan(["9m"], ["galore:per_layer=true"], accumulation=2)


def test_a_state_dict_of_the_per_layer_mode_is_one_of_the_ordinary_mode() -> None:
    method = GaLore(rank=8, update_gap=3)
    _, source = trained(dataclasses.replace(method, per_layer=True), steps=4)
    model, _ = trained(method, steps=4)
    target = method.prepare(model)
    target.load_state_dict(source.state_dict())
    for (weight, p), q in zip(named_weights(model), source.weight_of, strict=True):
        for key, value in target.state[p].items():
            assert torch.equal(value, source.state[q][key]), (weight.name, key)
