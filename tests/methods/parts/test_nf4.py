"""NF4: oracles are the normal distribution's quantiles, exhaustive search, and bitsandbytes."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from memprof.methods.parts import nf4

CPU = torch.device("cpu")


def there(x: Tensor) -> tuple[Tensor, Tensor]:
    codes, absmax = nf4.empty(x.numel(), x.device)
    nf4.quantise_(codes, absmax, x, nf4.pairs(x.device))
    return codes, absmax


def and_back(x: Tensor) -> Tensor:
    return nf4.dequantise(*there(x), nf4.pairs(x.device), torch.empty_like(x))


def test_numbers_are_quantiles_of_the_normal_distribution() -> None:
    """As bitsandbytes' create_normal_map makes them: 8 up, 7 down, from one tail to the median, largest 1."""
    tail = (1 - 1 / 30 + 1 - 1 / 32) / 2
    up, down = ([NormalDist().inv_cdf(tail + (0.5 - tail) * i / n) for i in range(n)] for n in (8, 7))
    expected = sorted([*up, 0.0, *(-x for x in down)])
    assert [x / up[0] for x in expected] == pytest.approx(nf4.NUMBERS, abs=3e-7)


def test_a_block_by_hand() -> None:
    """Its magnitude is 2, so 2 is code 15, -2 code 0, 0 code 7, 1 = 0.5 * 2 nearest to 0.4407, code 12."""
    x = torch.zeros(64)
    x[:4] = torch.tensor([2.0, -2.0, 0.0, 1.0])
    codes, absmax = there(x)
    assert absmax.tolist() == [2.0]
    assert codes[:3].tolist() == [15 * 16 + 0, 7 * 16 + 12, 7 * 16 + 7]
    assert and_back(x)[:4].tolist() == pytest.approx([2, -2, 0, 2 * 0.44070982933044434])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 13), (128, 352), (3000, 2000)])
def test_every_element_becomes_the_nearest_of_the_sixteen(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Of odd sizes, and of more elements than one piece has."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes, absmax = there(x)
    assert codes.nbytes + absmax.nbytes == nf4.nbytes(x.numel()) == 36 * -(-x.numel() // 64)
    padded = torch.zeros(len(absmax), 64)
    padded.view(-1)[: x.numel()] = x.view(-1).float()
    assert torch.equal(absmax, padded.abs().amax(dim=1))
    error = (padded / absmax[:, None])[..., None].sub(torch.tensor(nf4.NUMBERS)).abs().amin(dim=2) * absmax[:, None]
    back = torch.zeros_like(padded)
    back.view(-1)[: x.numel()] = and_back(x.float()).view(-1)
    torch.testing.assert_close((back - padded).abs(), error, rtol=1e-4, atol=1e-6)
    assert torch.equal(and_back(x), and_back(x.float()).to(dtype))


def test_zeros_stay_zeros() -> None:
    assert not and_back(torch.zeros(3, 100)).any()


@pytest.mark.reference
def test_codes_and_magnitudes_are_those_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    for shape in ((256, 512), (128, 352)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        packed, state = functional.quantize_4bit(x, quant_type="nf4")
        codes, absmax = there(x)
        assert torch.equal(codes, packed.view(-1)) and torch.equal(absmax, state.absmax)
        if shape[1] % 64 == 0:  # bitsandbytes 0.50.2 dequantises other rows wrongly on a CPU
            assert torch.equal(and_back(x), functional.dequantize_4bit(packed, state))
