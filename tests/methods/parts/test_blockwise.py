"""Block-wise 8-bit moments: the maps by their rule, codes against an exhaustive search, bytes by hand."""

import pytest
import torch
from torch import Tensor

from memprof.methods.parts import blockwise
from memprof.methods.parts.blockwise import BLOCK, CODES, Maps, new_moments

CPU = torch.device("cpu")


def numbers(signed: bool) -> Tensor:
    return torch.tensor(blockwise.dynamic_map(signed), dtype=torch.float32)


def test_maps_by_hand() -> None:
    """The lowest decade has one cell, 1e-7 ... 1e-6, centre 5.5e-7; unsigned it has two, of centres 3.25e-7, 7.75e-7.

    The top decade has 64 cells of 0.9 / 64, or 128 of 0.9 / 128.
    """
    signed, unsigned = numbers(True), numbers(False)
    assert len(signed) == len(unsigned) == CODES
    torch.testing.assert_close(signed[126:129], torch.tensor([-5.5e-7, 0, 5.5e-7]))
    torch.testing.assert_close(unsigned[:3], torch.tensor([0, 3.25e-7, 7.75e-7]))
    torch.testing.assert_close(signed[[0, 254, 255]], torch.tensor([0.45 / 64 - 1, 1 - 0.45 / 64, 1]))
    torch.testing.assert_close(unsigned[[254, 255]], torch.tensor([1 - 0.45 / 128, 1]))
    assert torch.equal(signed[:127].neg().flip(0), signed[128:255])  # each number but 1 has its negative


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_the_nearest_number_and_a_tie_goes_up(signed: bool) -> None:
    table, borders = numbers(signed), Maps(CPU).borders()[: CODES - 1] if signed else Maps(CPU).borders()[CODES:]
    scales = torch.logspace(-7, 0, 64)[:, None]
    values = torch.randn(64, BLOCK) * scales if signed else torch.rand(64, BLOCK) * scales
    codes = blockwise.encode(values.clamp(-1, 1), borders, out=torch.empty(64, BLOCK, dtype=torch.int32))
    errors = (values.clamp(-1, 1)[..., None].double() - table.double()).abs()
    assert torch.equal(codes, errors.argmin(-1).int())
    ties = blockwise.encode(borders.contiguous(), borders, out=torch.empty(CODES - 1, dtype=torch.int32))
    assert torch.equal(ties, torch.arange(1, CODES, dtype=torch.int32))


def test_blocks_of_zeros_and_of_tiny_numbers_survive() -> None:
    values, absmax = torch.zeros(3, BLOCK), torch.empty(3, 1)
    values[1, 5], values[2] = -3e-20, 7e-30
    blockwise.normalise_(values, absmax)
    assert values[0].eq(0).all() and values[1, 5] == -1 and values[2].eq(1).all()
    assert absmax.tolist()[1:] == [[pytest.approx(3e-20)], [pytest.approx(7e-30)]]


def test_bytes_by_hand() -> None:
    """4097 elements begin 17 blocks: 2 * 4097 codes and 2 * 17 fp32; 4095 stay in fp32."""
    assert blockwise.moment_bytes(4097) == 2 * 4097 + 2 * 17 * 4 == 8330
    assert blockwise.moment_bytes(4095) == 2 * 4095 * 4
    for numel in (4095, 4096, 4097):
        state = new_moments(torch.empty(numel))
        assert sum(t.nbytes for t in state.values()) == blockwise.moment_bytes(numel)


@pytest.mark.reference
@pytest.mark.parametrize("signed", [True, False])
def test_maps_and_codes_are_torchaos(signed: bool) -> None:
    utils = pytest.importorskip("torchao.optim.quant_utils")
    assert blockwise.dynamic_map(signed) == utils.create_dynamic_map(signed)
    borders = Maps(CPU).borders()
    values = torch.randn(64, BLOCK) if signed else torch.rand(64, BLOCK)
    absmax = torch.empty(64, 1)
    scaled, theirs = utils.scale_tensor(values, BLOCK)
    ours = blockwise.normalise_(values.clone(), absmax)
    codes = blockwise.encode(
        ours, borders[: CODES - 1] if signed else borders[CODES:], out=torch.empty(64, BLOCK, dtype=torch.int32)
    )
    assert torch.equal(absmax.view(-1), theirs)
    assert torch.equal(codes.to(torch.uint8), utils.quantize_8bit_with_qmap(scaled, numbers(signed)))
