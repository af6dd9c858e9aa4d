"""ReLoQRa: oracles are torch's whole QR, the weight before, and bytes by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from memprof.method import Role, Weight
from memprof.methods.lora import LoRA, LoRALinear
from memprof.methods.reloqra import READINGS, ReLoQRa, qr_bytes

SHAPES = [(30, 20), (20, 30), (16, 16)]
RANK, ALPHA, SCALE = 4, 6.0, 1.5


def layer_of(reading: str, shape: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[LoRALinear, Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    weight = linear.weight.detach().clone()
    return READINGS[reading](linear, RANK, ALPHA), weight


def whole(layer: LoRALinear) -> Tensor:
    """What the layer computes with."""
    return (layer.weight + layer.scaling * layer.lora_B.weight @ layer.lora_A.weight).detach()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_are_the_first_columns_and_rows_of_the_qr(shape: tuple[int, int], reading: str) -> None:
    layer, weight = layer_of(reading, shape)
    q, r = torch.linalg.qr(weight)
    torch.testing.assert_close(layer.lora_B.weight.detach(), q[:, :RANK])
    torch.testing.assert_close(layer.lora_A.weight.detach(), r[:RANK])
    b = layer.lora_B.weight.detach()
    torch.testing.assert_close(b.T @ b, torch.eye(RANK, dtype=b.dtype))
    assert [p.requires_grad for p in (layer.weight, *layer.adapter())] == [False, True, True]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_reading_keeps_the_function_and_the_other_adds_to_it(shape: tuple[int, int]) -> None:
    preserving, weight = layer_of("preserving", shape)
    torch.testing.assert_close(whole(preserving), weight)
    literal, _ = layer_of("literal", shape)
    q, r = torch.linalg.qr(weight)
    assert torch.equal(literal.weight, weight)
    torch.testing.assert_close(whole(literal), weight + SCALE * q[:, :RANK] @ r[:RANK])


@pytest.mark.parametrize("reading", READINGS)
def test_a_merge_decomposes_what_was_trained(reading: str) -> None:
    layer, _ = layer_of(reading, (30, 20))
    with torch.no_grad():
        for p in layer.adapter():
            p.add_(torch.randn_like(p))
    trained = whole(layer)
    layer.merge_()
    q, r = torch.linalg.qr(trained)
    added = SCALE * q[:, :RANK] @ r[:RANK]
    torch.testing.assert_close(whole(layer), trained if reading == "preserving" else trained + added)
    torch.testing.assert_close(layer.weight.detach(), trained - added if reading == "preserving" else trained)


def test_half_precision_loses_one_rounding() -> None:
    layer, weight = layer_of("preserving", (30, 20), torch.bfloat16)
    a, b = (p.detach().double() for p in layer.adapter())
    off = layer.weight.detach().double() + SCALE * b @ a - weight.double()
    assert float(off.abs().max()) <= 2**-8 * float(layer.weight.abs().max())


def test_memory_is_loras_but_for_the_decomposition() -> None:
    for e in (2, 4):
        weight = Weight("model.layers.0.self_attn.q_proj.weight", Role.Q, (30, 20), 1, e)
        plain, footprints = LoRA(rank=4).formula(weight), [ReLoQRa(rank=4, reading=r).formula(weight) for r in READINGS]
        assert footprints[0] == footprints[1]
        assert (footprints[0].param, footprints[0].backward) == (plain.param, plain.backward)
        assert footprints[0].refresh == qr_bytes(weight, 4) == {2: 600 * 4, 4: 0}[e] + 4 * 4 * 50
