"""Low-rank: oracles are the dense product by autograd, the SVD's best approximation and counted storages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.method import STEP, Footprint, named_weights
from memprof.methods.low_rank import LowRank, LowRankLinear, ProductBackward
from tests.methods.adapters import Pair, bytes_of, saved_bytes
from tests.methods.models import tiny, train

TOKENS = 2 * 16
SHAPES = [{}, {"tie_word_embeddings": True, "num_key_value_heads": 2}]
DTYPES = [torch.float32, torch.bfloat16]


def product(layer: nn.Module) -> Tensor:
    assert isinstance(layer, LowRankLinear)
    return (layer.B.weight @ layer.A.weight).detach()


def test_steps_match_dense_product_fp64() -> None:
    model = Pair()
    optimizer = LowRank(rank=3, lr=0.01, weight_decay=0.1).prepare(model)
    ours = [p for name, p in model.named_parameters() if not name.endswith("bias")]  # A and B of each, in order
    twins = [p.detach().clone().requires_grad_() for p in ours]
    bias = model.down_proj.bias.detach().clone().requires_grad_()
    reference = torch.optim.AdamW([*twins, bias], lr=0.01, weight_decay=0.1)
    for step in range(6):
        x = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
        a1, b1, a2, b2 = twins
        reference.zero_grad()
        (torch.tanh(x @ (b1 @ a1).T) @ (b2 @ a2).T + bias).square().mean().backward()
        reference.step()
    drift = max(float((p - t).detach().abs().max()) for p, t in zip(ours, twins, strict=True))
    assert drift < 1e-13, f"drift {drift:.3e} > 1e-13 (fp64, step 6)"


def test_spectral_at_full_rank_is_the_plain_model() -> None:
    model = tiny()
    ids = torch.randint(0, 64, (2, 16))
    plain = model(ids, ids).detach()
    matrices = {weight.name: p for weight, p in named_weights(model) if weight.is_matrix}
    LowRank(rank=128, init="spectral").prepare(model)
    for name, matrix in matrices.items():
        torch.testing.assert_close(product(model.get_submodule(name.removesuffix(".weight"))), matrix.detach())
    torch.testing.assert_close(model(ids, ids).detach(), plain)


def test_spectral_is_the_best_approximation() -> None:
    linear = nn.Linear(20, 30, bias=False)
    layer = LowRankLinear(linear, 6, "spectral")
    tail = torch.linalg.svdvals(linear.weight.detach())[6:].square().sum().sqrt()
    error = (linear.weight.detach() - product(layer)).norm()
    torch.testing.assert_close(error, tail, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_has_the_scale_of_the_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 400, bias=False, dtype=dtype)
    nn.init.normal_(linear.weight, std=0.02)
    layer = LowRankLinear(linear, 64, "random")
    assert product(layer).float().std().item() == pytest.approx(0.02, rel=0.05)
    hidden = layer.A(torch.randn(500, 256, dtype=dtype)).detach().float().std().item()
    assert hidden == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_formula_is_the_bytes_of_every_weight(dtype: torch.dtype, shape: dict[str, Any]) -> None:
    model = tiny(dtype, **shape)
    weights = [weight for weight, _ in named_weights(model)]
    method = LowRank(rank=24)
    optimizer = method.prepare(model)
    train(model, optimizer, 3)
    for weight in weights:
        footprint = method.formula(weight)
        expected = (footprint.param, footprint.grad, footprint.optimizer_state)
        assert bytes_of(model, optimizer, weight) == expected, weight.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_saves_h_alone_beyond_the_plain_layer(dtype: torch.dtype) -> None:
    plain, model = tiny(dtype), tiny(dtype)
    method = LowRank(rank=24)
    extra = sum(method.formula(weight).saved_per_token for weight, _ in named_weights(plain))
    method.prepare(model)
    assert saved_bytes(model) - saved_bytes(plain) == TOKENS * extra == 7 * TOKENS * 24 * dtype.itemsize


@pytest.mark.parametrize("init", ["random", "spectral"])
def test_runs_on_meta(init: str) -> None:
    model = tiny(torch.bfloat16, "meta")
    optimizer = LowRank(init=init).prepare(model)
    train(model, optimizer, 2, "meta")
    assert all(p.is_meta for p in model.parameters())


def test_state_dict_round_trips() -> None:
    model = tiny()
    optimizer = LowRank(rank=8).prepare(model)
    train(model, optimizer, 2)
    other = tiny()
    resumed = LowRank(rank=8).prepare(other)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer, 2) == train(other, resumed, 2)


def test_two_seeded_runs_are_bitwise_equal() -> None:
    runs = []
    for _ in range(2):
        model = tiny()
        runs.append(train(model, LowRank(rank=8).prepare(model), 3))
    assert runs[0] == runs[1]


def test_rank_is_bound_to_the_model() -> None:
    weights = [weight for weight, _ in named_weights(tiny(num_key_value_heads=2))]
    assert LowRank().bind(weights).rank == 64 // 4
    with pytest.raises(MemprofError, match="k_proj"):
        LowRank(rank=65).bind(weights)
    with pytest.raises(MemprofError, match="call bind"):
        LowRank().formula(weights[2])
    q = next(weight for weight in weights if weight.is_matrix)
    assert LowRank(rank=2).formula(q) == Footprint(  # by hand: q is (128, 128), fp32
        param=2 * 256 * 4,
        grad=2 * 256 * 4,
        optimizer_state=2 * 2 * 256 * 4 + 8,
        parts={STEP: 8},
        trained=2,
        saved_per_token=8,
        backward=ProductBackward(b_grad=2 * 128 * 4),
    )
