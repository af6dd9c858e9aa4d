"""LoQT: oracles are the schedule written out, dense products of what is stored, and what an update must improve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from memprof.llama import LlamaForCausalLM, build_model
from memprof.methods.loqt import LoQT, LoQTOptimizer
from memprof.methods.parts import nf4
from memprof.methods.parts.loqt_linear import LoQTLinear, pseudoinverse

ALPHA = 0.5
SHAPES = [(96, 64), (64, 96), (64, 64)]


def layer(shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> LoQTLinear:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    return LoQTLinear(linear, 8, ALPHA, nf4.pairs(torch.device("cpu")))


def step(made: LoQTLinear, rank: int = 8, iterations: int = 5, scale: float = 1.0) -> Tensor:
    """One backward in an update step, and the update; the gradient."""
    x = torch.randn(20, made.in_features, dtype=made.factor.dtype)
    (made(x) * scale).square().sum().backward()
    assert made.anchor.grad is not None
    grad = made.anchor.grad
    made.update(rank, iterations)
    made.anchor.grad, made.updating = None, False
    return grad


def train(model: LlamaForCausalLM, optimizer: LoQTOptimizer, steps: int) -> list[bool]:
    """Whether each step updated."""
    updated = []
    for _ in range(steps):
        ids = torch.randint(0, 64, (2, 16))
        optimizer.zero_grad()
        model(ids, ids).backward()
        updated.append(optimizer.layers[0].anchor.grad is not None)
        assert updated[-1] == (optimizer.layers[0].factor.grad is None)
        optimizer.step()
    return updated


def test_gaps_grow_as_the_authors_do() -> None:
    """get_proj_update_steps with gap 100 and exponent 1.2: 100, then 100 + int(1.2 ** k) for k = 1, 2, ..."""
    expected = [0, 100]
    for k in range(1, 45):
        expected.append(expected[-1] + 100 + int(1.2**k))
    assert LoQT().refresh_steps(20_000) == [s for s in expected if s < 20_000]
    assert LoQT(update_gap=3, psi=1.0).refresh_steps(12) == [0, 3, 7, 11]


def test_updates_follow_the_schedule_and_requests() -> None:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=64)
    optimizer = LoQT(rank=8, update_gap=3).prepare(model)
    assert train(model, optimizer, 6) == [True, False, False, True, False, False]
    optimizer.request_refresh()
    assert train(model, optimizer, 3) == [True, True, False]  # step 7 = 3 + 3 + int(1.2) is due


@pytest.mark.parametrize("shape", SHAPES)
def test_between_updates_the_factor_alone_has_a_gradient(shape: tuple[int, int]) -> None:
    made = layer(shape)
    step(made)
    x = torch.randn(7, shape[1], dtype=torch.float64, requires_grad=True)
    weight, projection, factor = made.weight(), made.projection(), made.factor
    product = factor @ projection if shape[0] >= shape[1] else projection @ factor
    dense = x @ (weight + ALPHA * product).T
    y = made(x)
    torch.testing.assert_close(y, dense)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, factor, made.anchor), grad, allow_unused=True)
    assert ours[2] is None
    for mine, theirs in zip(ours, torch.autograd.grad(dense, (x, factor), grad), strict=False):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_update_keeps_the_function_better_than_quantising_alone(shape: tuple[int, int], dtype: torch.dtype) -> None:
    made = layer(shape, dtype)
    step(made)
    nn.init.normal_(made.factor, std=0.05)
    made.updating = True
    before = made.merged().double()
    plain = made.requantised().double()
    step(made)
    after = made.merged().double()
    assert (after - before).norm() < 0.98 * (plain - before).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_projection_spans_the_gradients_top_subspace(shape: tuple[int, int]) -> None:
    made = layer(shape)
    grad = step(made)
    u, _, vh = torch.linalg.svd(grad, full_matrices=False)
    top = vh[:8] if made.tall else u[:, :8].T
    basis = made.projection() if made.tall else made.projection().T
    captured = (basis @ top.T @ top).norm() / basis.norm()
    assert captured > 0.98  # NF4 costs the rest


@pytest.mark.parametrize("iterations", [0, 5])
def test_without_compensation_the_factor_begins_at_zero(iterations: int) -> None:
    """The first update finds a weight that is quantised already, and nothing to make good."""
    made = layer((96, 64))
    step(made, iterations=iterations)
    assert not made.factor.any()
    nn.init.normal_(made.factor, std=0.05)
    made.updating = True
    step(made, iterations=iterations)
    assert bool(made.factor.any()) == bool(iterations)


def test_a_gradient_that_is_not_finite_changes_no_projection() -> None:
    made = layer((96, 64))
    step(made)
    before = made.merged()
    made.updating = True
    step(made, scale=float("nan"))
    assert made.merged().isfinite().all()
    assert (made.merged() - before).norm() < 0.2 * before.norm()


def test_pseudoinverse_is_torchs_and_zero_of_zero() -> None:
    p = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(pseudoinverse(p), torch.linalg.pinv(p).T)
    assert not pseudoinverse(torch.zeros(5, 9)).any()


def test_an_update_step_leaves_the_factor_to_compensation() -> None:
    """Momentum in an old subspace must not move it: its Adam has seen as many steps as it has had gradients."""
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=64)
    optimizer = LoQT(rank=8, update_gap=2).prepare(model)
    train(model, optimizer, 4)  # updates in steps 0 and 2
    assert {float(optimizer.state[made.factor]["step"]) for made in optimizer.layers} == {2.0}
    assert all(made.anchor not in optimizer.state for made in optimizer.layers)
