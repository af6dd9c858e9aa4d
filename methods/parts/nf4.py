"""NF4: numbers in four bits, block by block, for weights that are kept but not trained.

Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, appendix E. A tensor is cut, in memory order, into blocks of 64; a
block keeps its largest magnitude (fp32), and of each element which of 16 fixed numbers, times that magnitude, is
nearest: 4 bits. The numbers are quantiles of a normal distribution, 0 and both ends among them. As bitsandbytes 0.50
does without double quantisation, and as it packs: two codes a byte, the earlier one in the upper half. 36 bytes a
block, so 0.5625 bytes an element. (Double quantisation, of the magnitudes, would save 0.047 more.) A last block that is
not full is stored as if it were.

Scratch is bounded: larger tensors go in pieces of `PIECE` elements. Nothing here reads from the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 64
BLOCK_BYTES = BLOCK // 2 + 4
"""codes, and the magnitude in fp32"""
CODES = 16
PIECE = 2**22
PAIRS_BYTES = 4 * 2 * CODES**2
BORDERS_BYTES = 4 * (CODES - 1)
# Of QLoRA's appendix E, to the digit; quantiles of a normal distribution up to 2e-7.
NUMBERS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def pairs(device: torch.device) -> Tensor:
    """(256, 2) fp32: the two numbers that each byte stands for. Both directions read their table from it."""
    table = torch.tensor(NUMBERS, dtype=torch.float32)
    return torch.cartesian_prod(table, table).to(device)


def blocks_of(numel: int) -> int:
    return -(-numel // BLOCK)


def nbytes(numel: int) -> int:
    """Codes uint8, two a byte, and magnitudes fp32, one a block."""
    return blocks_of(numel) * BLOCK_BYTES


def empty(numel: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Zeros in this form: codes (32 blocks,) uint8 and magnitudes (blocks,) fp32."""
    blocks = blocks_of(numel)
    codes = torch.zeros(blocks * BLOCK // 2, dtype=torch.uint8, device=device)
    return codes, torch.zeros(blocks, dtype=torch.float32, device=device)


def quantise_(codes: Tensor, absmax: Tensor, x: Tensor, table: Tensor) -> None:
    """Contiguous `x` into codes and magnitudes. Scratch: see `quantise_scratch`."""
    sixteen = table[:CODES, 1]
    borders = sixteen[1:].add(sixteen[:-1]).mul_(0.5)
    for part, its_codes, its_absmax in _pieces(x, codes, absmax):
        values = torch.zeros(len(its_absmax), BLOCK, dtype=torch.float32, device=x.device)
        values.view(-1)[: len(part)].copy_(part)
        torch.linalg.vector_norm(values, ord=torch.inf, dim=1, out=its_absmax)
        values.div_(its_absmax.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1))
        nearest = torch.bucketize(values, borders, out_int32=True).view(-1, 2)
        del values
        its_codes.copy_(nearest[:, 0].mul_(CODES).add_(nearest[:, 1]))
        del nearest


def quantise_scratch(numel: int) -> int:
    """Borders (15,) fp32, and of a piece its values fp32 + codes int32."""
    return BORDERS_BYTES + 8 * min(blocks_of(numel) * BLOCK, PIECE)


def dequantise(codes: Tensor, absmax: Tensor, table: Tensor, out: Tensor) -> Tensor:
    """What codes and magnitudes stand for, rounded once from fp32, into contiguous `out`."""
    for part, its_codes, its_absmax in _pieces(out, codes, absmax):
        values = table.index_select(0, its_codes.int()).view(-1, BLOCK).mul_(its_absmax.unsqueeze(1))
        part.copy_(values.view(-1)[: len(part)])
        del values
    return out


def dequantise_scratch(numel: int) -> int:
    """Of a piece: codes, two each, int32 + values fp32."""
    return (2 + 4) * min(blocks_of(numel) * BLOCK, PIECE)


def _pieces(x: Tensor, codes: Tensor, absmax: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    parts = x.view(-1).split(PIECE), codes.split(PIECE // 2), absmax.split(PIECE // BLOCK)
    return zip(*parts, strict=True)
