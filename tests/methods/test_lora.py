"""LoRA: oracles are the dense W + s B A by autograd, the base model and counted storages."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from memprof.errors import MemprofError
from memprof.method import STEP, Footprint, named_weights
from memprof.methods.lora import LoRA, LoRALinear
from memprof.methods.low_rank import ProductBackward
from tests.methods.adapters import Pair, bytes_of, saved_bytes
from tests.methods.models import tiny, train

TOKENS = 2 * 16
SHAPES = [{}, {"tie_word_embeddings": True, "num_key_value_heads": 2}]
DTYPES = [torch.float32, torch.bfloat16]


def adapted(linear: nn.Linear, rank: int = 3, alpha: float = 6.0) -> LoRALinear:
    """A layer whose B is no longer zero."""
    layer = LoRALinear(linear, rank, alpha)
    nn.init.normal_(layer.lora_B.weight)
    return layer


def test_steps_match_dense_weight_fp64() -> None:
    model = Pair()
    w1, w2 = model.q_proj.weight.detach().clone(), model.down_proj.weight.detach().clone()
    optimizer = LoRA(rank=3, alpha=5.0, lr=0.01, weight_decay=0.1).prepare(model)
    ours = [p for name, p in model.named_parameters() if ".lora_" in name]  # A and B of each, in order
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
        (torch.tanh(x @ (w1 + 5 / 3 * b1 @ a1).T) @ (w2 + 5 / 3 * b2 @ a2).T + bias).square().mean().backward()
        reference.step()
        for p, t in zip(ours, twins, strict=True):
            torch.testing.assert_close(p.grad, t.grad, rtol=1e-9, atol=1e-15)
    drift = max(float((p - t).detach().abs().max()) for p, t in zip(ours, twins, strict=True))
    assert drift < 1e-13, f"drift {drift:.3e} > 1e-13 (fp64, step 6)"
    assert torch.equal(model.q_proj.weight, w1) and torch.equal(model.down_proj.weight, w2)


def test_gradient_of_the_input_matches_dense_weight_fp64() -> None:
    layer = adapted(nn.Linear(7, 12, dtype=torch.float64))
    x = torch.randn(2, 9, 7, dtype=torch.float64, requires_grad=True)  # Hugging Face's layers get (B, T, C)
    dense = layer.weight + 2 * layer.lora_B.weight @ layer.lora_A.weight
    expected = nn.functional.linear(x, dense, layer.bias)
    seed = torch.randn_like(expected)
    torch.testing.assert_close(layer(x), expected)
    (grad,) = torch.autograd.grad(layer(x), x, seed)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x, seed)[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_as_the_base_model_exactly(dtype: torch.dtype, shape: dict[str, Any]) -> None:
    model = tiny(dtype, **shape)
    ids = torch.randint(0, 64, (2, 16))
    base = model(ids, ids).detach()
    LoRA(rank=8).prepare(model)
    assert torch.equal(model(ids, ids).detach(), base)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_formula_is_the_bytes_of_every_weight(dtype: torch.dtype, shape: dict[str, Any]) -> None:
    model = tiny(dtype, **shape)
    weights = [weight for weight, _ in named_weights(model)]
    method = LoRA(rank=24)
    optimizer = method.prepare(model)
    train(model, optimizer, 3)
    for weight in weights:
        footprint = method.formula(weight)
        expected = (footprint.param, footprint.grad, footprint.optimizer_state)
        assert bytes_of(model, optimizer, weight) == expected, weight.name


@pytest.mark.parametrize("dtype", DTYPES)
def test_saves_h_alone_beyond_the_plain_layer(dtype: torch.dtype) -> None:
    plain, model = tiny(dtype), tiny(dtype)
    method = LoRA(rank=24)
    extra = sum(method.formula(weight).saved_per_token for weight, _ in named_weights(plain))
    method.prepare(model)
    assert saved_bytes(model) - saved_bytes(plain) == TOKENS * extra == 7 * TOKENS * 24 * dtype.itemsize


def test_autocast_casts_the_adapter() -> None:
    layer = adapted(nn.Linear(12, 10))
    x = torch.randn(4, 12)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.lora_B.weight.grad is not None and layer.lora_B.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.05)


def test_runs_on_meta() -> None:
    model = tiny(torch.bfloat16, "meta")
    train(model, LoRA().prepare(model), 2, "meta")
    assert all(p.is_meta for p in model.parameters())


def test_state_dict_round_trips() -> None:
    model, other = tiny(), tiny()
    optimizer, resumed = LoRA(rank=8).prepare(model), LoRA(rank=8).prepare(other)
    train(model, optimizer, 2)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(model, optimizer, 2) == train(other, resumed, 2)


def test_two_seeded_runs_are_bitwise_equal() -> None:
    runs = []
    for _ in range(2):
        model = tiny()
        runs.append(train(model, LoRA(rank=8).prepare(model), 3))
    assert runs[0] == runs[1]


def test_rank_is_bound_to_the_model() -> None:
    weights = [weight for weight, _ in named_weights(tiny(num_key_value_heads=2))]
    assert LoRA().bind(weights).rank == 64 // 4
    with pytest.raises(MemprofError, match="k_proj"):
        LoRA(rank=65).bind(weights)
    with pytest.raises(MemprofError, match="call bind"):
        LoRA().formula(weights[2])
    q = next(weight for weight in weights if weight.is_matrix)
    assert LoRA(rank=2).formula(q) == Footprint(  # by hand: q is (128, 128), fp32
        param=(128 * 128 + 2 * 256) * 4,
        frozen=128 * 128 * 4,
        grad=2 * 256 * 4,
        optimizer_state=2 * 2 * 256 * 4 + 8,
        parts={STEP: 8},
        trained=2,
        saved_per_token=8,
        backward=ProductBackward(b_grad=2 * 128 * 4, scaled=True, beside=True),
    )
