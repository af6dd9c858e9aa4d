"""MoRA: oracles are the maps written out as matrices, autograd, and the paper's count of parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from memprof.llama import build_model
from memprof.methods.mora import MoRA
from memprof.methods.parts.mora_linear import MoRALinear
from memprof.methods.parts.square_compression import CYCLIC, TYPES, continued, fold_, gather, spread_, square_side

SHAPES = [(128, 128), (352, 128), (128, 352), (30, 20), (90, 20)]
KINDS = [("rotation", 1), *(("sharing", kind) for kind in TYPES)]


def layer(shape: tuple[int, int], grouping: str, kind: int, rank: int = 4) -> MoRALinear:
    torch.manual_seed(0)
    made = MoRALinear(nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64), rank, grouping)
    made.kind = kind
    nn.init.normal_(made.lora_S)
    return made


def test_the_square_has_as_many_numbers_as_the_adapters_of_lora() -> None:
    for shape in SHAPES:
        side = square_side(shape, 8, "sharing")
        assert abs(side - math.sqrt(8 * sum(shape))) <= 0.5
        assert square_side(shape, 8, "rotation") in (side, side - 1) and square_side(shape, 8, "rotation") % 2 == 0
    assert square_side((4096, 4096), 8, "rotation") == 256  # the paper's example


def test_groups_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert gather(x, 2, CYCLIC).tolist() == [[9.0, 6.0]]
    assert gather(x, 2, "contiguous").tolist() == [[6.0, 9.0]]
    assert gather(x, 7, CYCLIC).tolist() == [[1, 2, 3, 4, 5, 0, 0]]
    assert gather(x, 5, CYCLIC) is x
    assert continued(x, 12).tolist() == [[1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]]
    out = torch.zeros(1, 5)
    spread_(out, torch.tensor([[1.0, 10.0]]), CYCLIC)
    assert out.tolist() == [[1, 10, 1, 10, 1]]
    fold_(out.zero_(), torch.arange(1.0, 8.0)[None])
    assert out.tolist() == [[7, 9, 3, 4, 5]]


def test_first_piece_is_not_turned_and_turning_keeps_lengths() -> None:
    maps = layer((128, 128), "rotation", 1).maps
    x = torch.randn(3, 128, dtype=torch.float64)
    side = 2 * maps.cos_PH.shape[1]  # type: ignore[union-attr]
    u = maps.compress(x)
    whole = continued(x, u.shape[1])
    torch.testing.assert_close(u[:, :side], x[:, :side])
    torch.testing.assert_close(u.view(3, -1, side).norm(dim=2), whole.view(3, -1, side).norm(dim=2))
    torch.testing.assert_close(maps.turn_back(u), whole)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("grouping", "kind"), KINDS)
@pytest.mark.parametrize("rank", [1, 4, 20])
def test_gradients_are_those_of_the_dense_weight(shape: tuple[int, int], grouping: str, kind: int, rank: int) -> None:
    """The layer is linear in x and in S, so its effect on unit vectors says all; q is wider than x at rank 20."""
    made = layer(shape, grouping, kind, rank)
    eye = torch.eye(shape[1], dtype=torch.float64)
    dense = made(eye).T.detach()
    x = torch.randn(5, shape[1], dtype=torch.float64, requires_grad=True)
    y = made(x)
    torch.testing.assert_close(y, x @ dense.T)
    grad = torch.randn_like(y)
    grad_x, grad_s = torch.autograd.grad(y, (x, made.lora_S), grad)
    torch.testing.assert_close(grad_x, grad @ dense)
    direction = torch.randn_like(grad_s)
    with torch.no_grad():
        before = made(x)
        made.lora_S.add_(direction)
        change: Tensor = made(x) - before
    torch.testing.assert_close((grad_s * direction).sum(), (grad * change).sum())


@pytest.mark.parametrize(("grouping", "kind"), KINDS)
def test_a_merge_keeps_the_function_and_empties_the_square(grouping: str, kind: int) -> None:
    made = layer((96, 1500), grouping, kind, rank=3)  # more unit vectors than go at once
    x = torch.randn(4, 1500, dtype=torch.float64)
    before = made(x).detach()
    made.merge_()
    assert not made.lora_S.any()
    torch.testing.assert_close(made(x).detach(), before, rtol=1e-11, atol=1e-11)


def test_the_update_has_the_squares_rank_not_loras() -> None:
    made = layer((128, 128), "sharing", 1, rank=4)
    delta = made(torch.eye(128, dtype=torch.float64)).T - made.weight
    assert int(torch.linalg.matrix_rank(delta.detach())) == len(made.lora_S) == 32


def test_begins_as_the_model_it_was_given() -> None:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=64)
    ids = torch.randint(0, 64, (2, 16))
    before = model(ids, ids)
    MoRA(rank=8).prepare(model)
    torch.testing.assert_close(model(ids, ids), before)
