"""Grass by hand: which rows move, what backward makes, how rows are drawn, bytes; its equations: fidelity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.api import plan
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.llama import build_model
from memprof.method import Role, Weight
from memprof.methods.grass import Grass, GrassOptimizer
from memprof.methods.parts.grass_linear import NOT_REPLACED, REPLACED, GrassLinear, draw
from memprof.trace import trace

METHOD = Grass(rank=2, update_gap=3, scale=1.0, lr=0.1, eps=1e-12)
GRADIENT = torch.tensor([[1.0, 0.0, 2.0], [5.0, -5.0, 5.0], [0.0, 0.5, 0.0], [-3.0, 4.0, 1.0]], dtype=torch.float64)


def one_layer(method: Grass) -> tuple[GrassLinear, GrassOptimizer]:
    """A model whose only weight is one q_proj (4, 3) of zeros."""
    model = nn.Module()
    model.q_proj = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.q_proj.weight)
    optimizer = method.prepare(model)
    assert isinstance(model.q_proj, GrassLinear)
    return model.q_proj, optimizer


def step(layer: GrassLinear, optimizer: GrassOptimizer, grad: Tensor) -> None:
    """One step in which the weight's full gradient is `grad`: of unit vectors as inputs."""
    layer(torch.eye(3, dtype=grad.dtype)).backward(grad.T)
    optimizer.step()
    optimizer.zero_grad()


# --- the update ------------------------------------------------------------------------------------------------------


def test_the_largest_rows_move_and_no_other() -> None:
    """Adam's first step is the sign; rows 1 and 3 have the largest norms. Later steps keep them, whatever comes."""
    layer, optimizer = one_layer(METHOD)
    step(layer, optimizer, GRADIENT)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    expected[[1, 3]] = -0.1 * GRADIENT[[1, 3]].sign()
    torch.testing.assert_close(layer.weight, expected)
    step(layer, optimizer, 100 * GRADIENT.flip(0))
    assert layer.selection["rows"].tolist() == [1, 3]
    assert torch.equal(layer.weight[[0, 2]], expected[[0, 2]])


def test_a_scale_goes_in_squared() -> None:
    """W -= lr rho Adam(rho G): the sign, times rho; a row that was drawn twice moves twice."""
    layer, optimizer = one_layer(dataclasses.replace(METHOD, choice=REPLACED))
    layer.due = False
    layer.selection["rows"].copy_(torch.tensor([3, 3]))
    layer.selection["scale"].copy_(torch.tensor([2.0, 0.5]))
    step(layer, optimizer, GRADIENT)
    torch.testing.assert_close(layer.weight[3], -0.1 * 2.5 * GRADIENT[3].sign())
    torch.testing.assert_close(optimizer.state[layer.anchor]["exp_avg"][0], 0.1 * 2 * GRADIENT[3])


@pytest.mark.parametrize("reset", [True, False])
def test_new_rows_begin_with_new_moments_if_told_so(reset: bool) -> None:
    layer, optimizer = one_layer(dataclasses.replace(METHOD, reset=reset))
    for _ in range(3):
        step(layer, optimizer, GRADIENT)
    step(layer, optimizer, GRADIENT.flip(0))
    state = optimizer.state[layer.anchor]
    assert layer.selection["rows"].tolist() == [2, 0]
    assert state["step"] == (1 if reset else 4)
    old = torch.zeros(2, 3, dtype=torch.float64) if reset else (1 - 0.9**3) * GRADIENT[[1, 3]]
    torch.testing.assert_close(state["exp_avg"], 0.9 * old + 0.1 * GRADIENT.flip(0)[[2, 0]])


@pytest.mark.parametrize("choice", ["top", REPLACED])
def test_a_step_that_is_skipped_does_not_lose_the_choice(choice: str) -> None:
    """As a gradient scaler skips it: what one backward chose the next one chooses again, from its gradient."""
    layer, optimizer = one_layer(dataclasses.replace(METHOD, choice=choice))
    layer(torch.eye(3, dtype=torch.float64)).backward((math.inf * torch.ones(4, 3, dtype=torch.float64)).T)
    optimizer.zero_grad()
    only_2 = torch.zeros(4, 3, dtype=torch.float64)
    only_2[2] = 1
    step(layer, optimizer, only_2)
    assert 2 in layer.selection["rows"]
    assert not layer.due and not layer.fresh


def test_gradients_that_are_zeroed_in_place_do_not_stop_the_choice() -> None:
    layer, optimizer = one_layer(METHOD)
    for grad in (GRADIENT, GRADIENT, GRADIENT, GRADIENT.flip(0)):
        layer(torch.eye(3, dtype=torch.float64)).backward(grad.T)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert layer.selection["rows"].tolist() == [2, 0]


def test_the_first_of_several_micro_batches_chooses() -> None:
    layer, optimizer = one_layer(METHOD)
    layer(torch.eye(3, dtype=torch.float64)).backward(GRADIENT.T)
    step(layer, optimizer, 100 * GRADIENT.flip(0))
    assert layer.selection["rows"].tolist() == [1, 3]


def test_a_gradient_that_is_not_finite_leaves_the_choice() -> None:
    for choice in (REPLACED, NOT_REPLACED, "top"):
        layer, optimizer = one_layer(dataclasses.replace(METHOD, choice=choice))
        grad = GRADIENT.clone()
        grad[2, 1] = float("inf")
        step(layer, optimizer, grad)
        assert layer.selection["rows"].tolist() == [0, 1], choice


class Made(TorchDispatchMode):
    """The shapes of all tensors that operations make, views left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.shapes += [tuple(out.shape)] if isinstance(out, Tensor) and not func.is_view else []
        return out


def test_the_full_gradient_is_made_when_rows_are_chosen_and_never_else() -> None:
    layer, optimizer = one_layer(METHOD)
    for due in (True, False, False, True):
        y = layer(torch.randn(5, 3, dtype=torch.float64))
        with Made() as made:
            y.sum().backward()
        assert ((4, 3) in made.shapes) == due
        assert layer.anchor.grad is not None and layer.anchor.grad.shape == (2, 3)
        optimizer.step()
        optimizer.zero_grad()


# --- drawing rows ----------------------------------------------------------------------------------------------------


def test_rows_that_are_drawn_with_replacement_estimate_the_gradient() -> None:
    """The mean of P P^T over many draws is the identity: E[rho^2 count] = 1 for every row."""
    squares = torch.tensor([1.0, 4.0, 9.0, 0.5], dtype=torch.float64)
    rows, scale = draw(squares, 1_000_000, REPLACED, torch.Generator().manual_seed(0))
    weight = torch.zeros(4, dtype=torch.float64).index_add_(0, rows, scale.square())
    torch.testing.assert_close(weight, torch.ones_like(weight), rtol=0.02, atol=0)


def test_rows_that_are_drawn_without_replacement_differ_and_the_first_follows_q() -> None:
    squares = torch.tensor([1.0, 4.0, 5.0], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    chosen = torch.stack([draw(squares, 2, NOT_REPLACED, draws)[0] for _ in range(4000)])
    assert (chosen[:, 0] != chosen[:, 1]).all()
    share = torch.bincount(chosen[:, 0]) / 4000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.4, 0.5]), rtol=0, atol=0.03)


@pytest.mark.parametrize("choice", [REPLACED, NOT_REPLACED])
def test_a_row_without_gradient_moves_nothing(choice: str) -> None:
    squares = torch.tensor([0.0, 4.0, 0.0])
    rows, scale = draw(squares, 3, choice, torch.Generator().manual_seed(0))
    assert scale[rows != 1].count_nonzero() == 0
    torch.testing.assert_close(scale[rows == 1], torch.full_like(scale[rows == 1], 3**-0.5))
    assert draw(torch.zeros(3), 3, choice, None)[1].count_nonzero() == 0


def test_every_layer_and_every_choice_draws_its_own_rows() -> None:
    model = build_model("9m", num_layers=1, vocab_size=64)
    optimizer = Grass(rank=2, choice=REPLACED, update_gap=1, seed=3).prepare(model)
    seeds = []
    for _ in range(2):
        seeds += [layer.selection["seed"] for layer in optimizer.layer_of.values()]
        model(*(torch.zeros(1, 4, dtype=torch.long),) * 2).backward()
        optimizer.step()
    assert len(set(seeds)) == 14


def test_another_seed_draws_other_rows() -> None:
    """The first layer's rows, of one gradient: the generator of a CPU keeps 32 bits of a seed."""
    drawn = []
    for seed in (0, 1, 2**30):
        torch.manual_seed(0)
        model = build_model("9m", num_layers=1, vocab_size=64)
        optimizer = Grass(rank=32, choice=NOT_REPLACED, seed=seed).prepare(model)
        model(*(torch.arange(8).view(1, 8),) * 2).backward()
        drawn.append(tuple(next(iter(optimizer.layer_of.values())).selection["rows"].tolist()))
    assert len(set(drawn)) == 3


# --- bytes and calls -------------------------------------------------------------------------------------------------


def test_bytes_by_hand() -> None:
    """4096 x 11008, rank 1024, bf16: the paper's 2 R N + 2 R, of which the R scales only where rows are drawn."""
    weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (4096, 11008), 1, 2)
    top, drawn = Grass(rank=1024).formula(weight), Grass(rank=1024, choice=REPLACED).formula(weight)
    assert top.grad == 2 * 1024 * 11008
    assert top.optimizer_state == 2 * (2 * 1024 * 11008) + 4 * 1024
    assert drawn.optimizer_state - top.optimizer_state == 2 * 1024


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_the_first_micro_batch_is_the_worst_of_a_step_that_chooses(accumulation: int) -> None:
    """It makes full gradients; the others, whose gradients wait, do not."""
    for model, rank in (("9m", 1), ("llama3.2-1b", 7)):
        case = plan([model], [Grass(rank=rank)], accumulation=accumulation, num_layers=2, vocab_size=64,
                    batch_size=1, seq_len=8)[0]  # fmt: skip
        assert formula(case).refresh_peak == trace(case).refresh_peak


def test_a_step_of_24_layers_makes_few_calls(launches: Callable[[Callable[[], object]], int]) -> None:
    model = build_model("350m", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = Grass().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty(p.shape, dtype=p.dtype, device="meta")
    optimizer.step()
    assert launches(optimizer.step) < 200


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"grass: rank 129 is larger than model\.layers\.0\.self_attn\.q_proj"):
        Grass(rank=129).prepare(build_model("9m", device="meta", num_layers=1))
