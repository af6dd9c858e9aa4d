"""PiSSA and RePiSSA: oracles are the best approximation by the SVD, the base model, and bytes by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from memprof.llama import build_model
from memprof.method import Role, Weight
from memprof.methods.lora import LoRA
from memprof.methods.pissa import PiSSA, PiSSALinear, svd_bytes
from memprof.methods.repissa import RePiSSA

SHAPES = [(30, 20), (20, 30), (16, 16)]


def layer_of(shape: tuple[int, int], dtype: torch.dtype = torch.float64, rank: int = 4) -> tuple[PiSSALinear, Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    weight = linear.weight.detach().clone()
    return PiSSALinear(linear, rank, 6.0), weight


def product(layer: PiSSALinear) -> Tensor:
    return (layer.scaling * layer.lora_B.weight @ layer.lora_A.weight).detach()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adapter_is_the_principal_part_and_the_residual_the_rest(shape: tuple[int, int]) -> None:
    layer, weight = layer_of(shape)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(product(layer), u[:, :4] @ s[:4].diag() @ vh[:4])
    torch.testing.assert_close(layer.weight.detach() + product(layer), weight)
    torch.testing.assert_close(torch.linalg.matrix_norm(layer.weight.detach(), 2), s[4])
    a, b = layer.lora_A.weight.detach(), layer.lora_B.weight.detach()  # each takes the root of a value, s divided out
    torch.testing.assert_close(a @ a.T, (s[:4] / 1.5).diag(), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(b.T @ b, (s[:4] / 1.5).diag(), atol=1e-12, rtol=1e-9)
    assert [p.requires_grad for p in (layer.weight, *layer.adapter())] == [False, True, True]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_low_precision_loses_one_rounding_of_the_residual(dtype: torch.dtype, limit: float) -> None:
    """What A and B lose by rounding stays in the residual, so the sum is off by no more than the residual's own."""
    layer, weight = layer_of((30, 20), dtype)
    a, b = (p.detach().double() for p in layer.adapter())
    whole = layer.weight.detach().double() + layer.scaling * b @ a
    assert float((whole - weight.double()).abs().max()) <= limit * float(weight.abs().max())


def test_every_layer_starts_as_the_base_models() -> None:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=64)
    ids = torch.randint(0, 64, (2, 16))
    base = model(ids, ids).item()
    PiSSA(rank=8).prepare(model)
    assert abs(model(ids, ids).item() - base) < 2e-6
    assert sum(isinstance(module, PiSSALinear) for module in model.modules()) == 7


@pytest.mark.parametrize("shape", SHAPES)
def test_a_merge_takes_the_principal_part_of_what_was_trained(shape: tuple[int, int]) -> None:
    layer, _ = layer_of(shape)
    with torch.no_grad():
        for p in layer.adapter():
            p.add_(torch.randn_like(p))
    trained = layer.weight.detach() + product(layer)
    layer.merge_()
    torch.testing.assert_close(layer.weight.detach() + product(layer), trained)
    u, s, vh = torch.linalg.svd(trained, full_matrices=False)
    torch.testing.assert_close(product(layer), u[:, :4] @ s[:4].diag() @ vh[:4])


def test_memory_is_loras_but_for_the_decomposition() -> None:
    for dtype_bytes in (2, 4):
        for shape in SHAPES:
            weight = Weight("model.layers.0.self_attn.q_proj.weight", Role.Q, shape, 1, dtype_bytes)
            assert PiSSA(rank=4).formula(weight) == LoRA(rank=4).formula(weight)
            footprint = RePiSSA(rank=4).formula(weight)
            assert footprint.param == LoRA(rank=4).formula(weight).param
            assert footprint.refresh == svd_bytes(weight)
    by_hand = {(30, 20, 4): (600 + 20 + 400) * 4, (20, 30, 2): (600 + 400 + 20 + 600) * 4}
    for (rows, columns, e), expected in by_hand.items():
        assert svd_bytes(Weight("q", Role.Q, (rows, columns), 1, e)) == expected


def test_where_the_weight_is_lean_pruning_by_magnitude_takes_more_than_the_decomposition() -> None:
    thin = Weight("model.layers.0.self_attn.q_proj.weight", Role.Q, (4, 400), 1, 4)
    assert RePiSSA(rank=4, prune_by="magnitude").formula(thin).refresh == 16 * 4 * 400 > svd_bytes(thin)
