"""Muon by hand and by its singular values; `fidelity` holds it against its equations and torch.optim.Muon."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from memprof.llama import build_model
from memprof.method import Role, Weight, groups, named_weights
from memprof.methods.muon import Muon, orthogonalised

Count = Callable[[Callable[[], object]], int]


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    values = u.mT @ orthogonalised(x.clone(), 5) @ vh.mT
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(values, torch.diag_embed(diagonal), rtol=0, atol=1e-8)
    assert 0.6 < diagonal.min() and diagonal.max() < 1.3


def test_one_step_of_the_quintic_by_hand() -> None:
    """X = diag(0.6, 0.8) is of norm one; x -> a x + b x^3 + c x^5."""
    x = torch.tensor([[[0.6, 0.0], [0.0, 0.8]]], dtype=torch.float64)
    expected = [3.4445 * v - 4.7750 * v**3 + 2.0315 * v**5 for v in (0.6, 0.8)]
    torch.testing.assert_close(orthogonalised(x, 1)[0].diagonal().tolist(), expected, rtol=1e-6, atol=0)


def one_matrix(rows: int, cols: int) -> nn.Module:
    model = nn.Module()
    model.q_proj = nn.Linear(cols, rows, bias=False)
    return model


def test_a_step_is_as_long_as_the_learning_rate_says_and_a_tall_matrix_goes_further() -> None:
    for rows, cols, factor in ((8, 8, 1.0), (4, 16, 1.0), (16, 4, 2.0)):
        model = one_matrix(rows, cols)
        before = model.q_proj.weight.detach().clone()  # type: ignore[union-attr, operator]
        model.q_proj.weight.grad = torch.randn(rows, cols)  # type: ignore[union-attr]
        Muon(lr=0.1).prepare(model).step()
        moved = torch.linalg.matrix_norm(model.q_proj.weight.detach() - before, 2)  # type: ignore[union-attr, operator]
        assert 0.6 * factor < moved / 0.1 < 1.3 * factor


def test_gradients_stay_as_they_were() -> None:
    model = one_matrix(8, 4)
    grad = torch.randn(8, 4)
    model.q_proj.weight.grad = grad.clone()  # type: ignore[union-attr]
    Muon().prepare(model).step()
    assert torch.equal(model.q_proj.weight.grad, grad)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_of_one_shape_step_together_as_each_would_alone(nesterov: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    together, alone = (build_model("9m", dtype=dtype, num_layers=2, vocab_size=64) for _ in range(2))
    alone.load_state_dict(together.state_dict())
    method = Muon(ns_dtype=None, nesterov=nesterov)
    many, one = method.prepare(together), method.prepare(alone)
    one.batches.limit = 0
    for _ in range(2):
        for p, q in zip(together.parameters(), alone.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        many.step()
        one.step()
    for p, q in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4 if dtype == torch.float32 else 2e-2)


def test_formula_by_hand() -> None:
    down = Weight("down", Role.DOWN, (4096, 11008), 1, 2)
    assert Muon().formula(down).optimizer_state == 2 * 4096 * 11008
    assert Muon().formula(down).transient == 4 * (4096 * 11008 + 4096**2)
    embed = Weight("embed", Role.EMBED, (32000, 4096), 1, 2)
    assert Muon().formula(embed).optimizer_state == 2 * 2 * 32000 * 4096


def test_groups_are_of_one_shape_and_within_the_largest_weight() -> None:
    weights = [weight for weight, _ in named_weights(build_model("350m", device="meta", dtype=torch.bfloat16))]
    method, limit = Muon(), max(weight.nbytes for weight in weights)
    matrices = [weight for weight in weights if weight.is_matrix]
    cut = groups(matrices, lambda w: method.formula(w).transient, method.scratch_limit(weights), method.update_kind)
    assert len(cut) < len(matrices) / 4
    for group in cut:
        assert len({weight.shape for weight in group}) == 1
        assert sum(method.formula(weight).transient for weight in group) <= limit


def test_a_step_of_24_layers_is_some_hundred_launches(launches: Count) -> None:
    """torch.optim.Muon makes 4802 calls."""
    model = build_model("350m", device="meta", dtype=torch.bfloat16)
    optimizer = Muon().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert launches(optimizer.step) <= 800
