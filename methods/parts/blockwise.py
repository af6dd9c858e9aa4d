"""Adam's moments in 8 bits: block-wise dynamic quantisation. The step on such moments is in adam8bit.py.

Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861. A moment of n elements is kept
as n codes (uint8) and ceil(n / 256) magnitudes (fp32), the largest of each block of 256 in memory order; a code stands
for a number of a fixed map of 256, times its block's magnitude. Rule and sizes are bitsandbytes 0.50: one pair of maps
an optimizer, and moments of fewer than 4096 elements stay in fp32 as they are. torchao 0.18 also exempts a size that
is no multiple of 256, keeps an exempt moment in the parameter's dtype, and gives every moment a map of its own (1 KiB).

Rounding is to the nearest number of the map, ties upwards, as in torchao. bitsandbytes differs a little from one device
to the next: on a CPU a few codes in a thousand, of second moments a few in a hundred, are not the nearest; on CUDA a
small negative first moment that rounds to zero takes the code below instead, the weights decay after the update, and an
element whose gradient is not finite loses its moments. Here such a gradient makes its whole block not finite: nothing
is skipped in silence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memprof.optimizer import PIECE

BLOCK = 256
SMALLEST = 4096
"""moments of fewer elements are kept in fp32"""
CODES = 256
DECADES = 7
"""magnitudes go from 1 down to 1e-7"""
BLOCK_SCRATCH = 4 * 4 * BLOCK + 2 * 4
"""of a block of two moments: their values fp32, codes int32 (or parameter and gradient, fp32), and two magnitudes"""
SCRATCH_LIMIT = PIECE // BLOCK * BLOCK_SCRATCH
MAP_BYTES = 2 * CODES * 4
"""what the optimizer keeps once"""
UPDATE_SCALARS = 4 + (2 * CODES - 1) * 4
"""the step count and the borders between the maps' numbers, alive during the update"""


def dynamic_map(signed: bool) -> list[float]:
    """The 256 numbers that codes 0 ... 255 stand for, ascending: a tree of decades, each finer than the one below.

    Decade i = 0 ... 6, from 10^(i-7) to 10^(i-6), is cut into 2^i equal cells (2^(i+1) where there is no sign to
    store), and each cell stands for its centre; beside them 0 and 1. Signed: every centre also negative.
    """
    numbers = [0.0, 1.0]
    for i in range(DECADES):
        edges = torch.linspace(0.1, 1, 2 ** (i if signed else i + 1) + 1)
        centres = 10.0 ** (i - DECADES + 1) * ((edges[:-1] + edges[1:]) / 2)
        numbers += centres.tolist()
        if signed:
            numbers += (-centres).tolist()
    return sorted(numbers)


class Maps:
    """The map of first moments (signed) and the one of second moments (unsigned), end to end: 2048 bytes."""

    def __init__(self, device: torch.device) -> None:
        self.numbers = torch.tensor(dynamic_map(True) + dynamic_map(False), dtype=torch.float32, device=device)

    def borders(self) -> Tensor:
        """(511,) fp32: [:255] halfway between neighbours of the first map, [256:] of the second."""
        return self.numbers[1:].add(self.numbers[:-1]).mul_(0.5)


def blocks_of(numel: int) -> int:
    return -(-numel // BLOCK)


def is_quantised(numel: int) -> bool:
    return numel >= SMALLEST


def moment_bytes(numel: int) -> int:
    """Both moments: codes 2 n + magnitudes 2 * 4 ceil(n / 256), or 2 * 4 n where they are exempt."""
    return 2 * numel + 2 * 4 * blocks_of(numel) if is_quantised(numel) else 2 * 4 * numel


def scratch_bytes(numel: int, itemsize: int) -> int:
    """What `adam8bit_` takes for a tensor whose parameter and gradient have elements of `itemsize` bytes."""
    return block_scratch(numel) if is_quantised(numel) else exempt_scratch(numel, itemsize)


def block_scratch(numel: int) -> int:
    """4104 bytes for each block, of at most 7680 blocks at a time."""
    return min(blocks_of(numel) * BLOCK_SCRATCH, SCRATCH_LIMIT)


def exempt_scratch(numel: int, itemsize: int) -> int:
    """Parameter and gradient in fp32, unless that is what they are."""
    return 0 if itemsize == 4 else 2 * 4 * numel


def new_moments(like: Tensor) -> dict[str, Tensor]:
    """State of a tensor of that shape: codes or fp32 moments of its shape; magnitudes (blocks,) fp32 beside codes."""
    dtype = torch.uint8 if is_quantised(like.numel()) else torch.float32
    state = {key: torch.zeros(like.shape, dtype=dtype, device=like.device) for key in ("exp_avg", "exp_avg_sq")}
    if dtype == torch.uint8:
        for key in ("exp_avg_absmax", "exp_avg_sq_absmax"):
            state[key] = torch.zeros(blocks_of(like.numel()), dtype=torch.float32, device=like.device)
    return state


def decode(numbers: Tensor, codes: Tensor, absmax: Tensor, out: Tensor) -> Tensor:
    """Whole blocks: codes (B, 256) int32 and absmax (B, 1) fp32 into what they stand for, (B, 256) fp32."""
    torch.index_select(numbers, 0, codes.view(-1), out=out.view(-1))
    return out.mul_(absmax)


def normalise_(values: Tensor, absmax: Tensor) -> Tensor:
    """Whole blocks (B, 256) over their largest magnitudes, which go into absmax (B, 1); a block of zeros stays so."""
    torch.linalg.vector_norm(values, ord=torch.inf, dim=1, keepdim=True, out=absmax)
    absmax.clamp_(min=torch.finfo(torch.float32).tiny)
    return values.div_(absmax)


def encode(values: Tensor, borders: Tensor, out: Tensor) -> Tensor:
    """The codes (int32) of the numbers of a map that are nearest to normalised values."""
    return torch.bucketize(values, borders, right=True, out_int32=True, out=out)
