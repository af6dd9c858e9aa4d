"""Numbers kept as integers: 8 or 4 bits an element, with a scale and a zero point for every 256 of them. No method,
but what Q-GaLore keeps its weights and projectors in.

The quantiser is that of Q-GaLore's authors (q_galore_torch 1.0): of each group of 256 elements in memory order, codes
c = round(x / scale) + zero in 0 ... 2^bits - 1, with scale = (max - min) / (2^bits - 1) and zero = -round(min / scale).
It is read back as (c - zero) * scale; all of it in the dtype of x, in which scale and zero are kept too. Stochastic
rounding goes up with the probability of the fraction.

What differs there:
* 4-bit codes are stored one a byte there; here two: element i in the lower half of byte i, element i + n / 2 in its
  upper half;
* a group that does not reach over zero is cut off there, up to all of it to one value, as its zero point is clamped
  into the codes; here every range includes zero. A group that straddles zero is the same in both;
* the number of elements must be a multiple of 256 there; here the last group has what is left, and no byte is stored
  for what is not there (scratch is padded to whole groups, with zeros, which no range minds);
* the random numbers of stochastic rounding are in the dtype of x there, in bf16 one of 256 values, so that fractions
  below 1/256 round up too often; here fractions are compared with fp32 numbers (`bernoulli_`).

Shapes: a tensor has n elements in G = ceil(n / 256) groups; a group is a row of (G, 256).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST_RANGE = 1e-5


class Packed(NamedTuple):
    """A tensor in integers: codes, uint8; scale and zero (G, 1), in the dtype that it is read back in."""

    codes: Tensor
    scale: Tensor
    zero: Tensor


@dataclass(frozen=True, slots=True)
class Integers:
    """How many bits a code has, and how many elements share a scale."""

    bits: int
    group: int = 256

    @property
    def most(self) -> int:
        return (1 << self.bits) - 1

    def groups(self, numel: int) -> int:
        return -(-numel // self.group)

    def padded(self, numel: int) -> int:
        """Elements of scratch: whole groups."""
        return self.groups(numel) * self.group

    def code_bytes(self, numel: int) -> int:
        return -(-numel * self.bits // 8)

    def scale_bytes(self, numel: int, itemsize: int) -> int:
        """Scale and zero of every group."""
        return 2 * self.groups(numel) * itemsize

    def stored_bytes(self, numel: int, itemsize: int) -> int:
        return self.code_bytes(numel) + self.scale_bytes(numel, itemsize)

    def empty(self, sizes: Sequence[int], like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scratch for several tensors, as groups (G, 256), zeros in the padding; and each one flat."""
        rows = like.new_empty(sum(map(self.groups, sizes)), self.group)
        self._clear_padding(rows, sizes)
        return rows, self.views(rows, sizes)

    def read(self, packs: Sequence[Packed], sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Several tensors read back, as groups (G, 256), zeros in the padding; and each one flat."""
        rows, out = self.empty(sizes, packs[0].scale)
        if self.bits == 4:
            _unpack([pack.codes for pack in packs], out)
        else:
            torch._foreach_copy_(out, [pack.codes.view(-1) for pack in packs])
        rows.sub_(_joined([pack.zero for pack in packs])).mul_(_joined([pack.scale for pack in packs]))
        self._clear_padding(rows, sizes)
        return rows, out

    def views(self, rows: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Each of several tensors, flat, in the groups of all."""
        return [part[:size] for part, size in zip(self._parts(rows, sizes), sizes, strict=True)]

    def _parts(self, rows: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = rows.view(-1).split([self.padded(size) for size in sizes])
        return parts

    def _clear_padding(self, rows: Tensor, sizes: Sequence[int]) -> None:
        if any(size % self.group for size in sizes):
            torch._foreach_zero_([part[size:] for part, size in zip(self._parts(rows, sizes), sizes, strict=True)])

    def round_(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Groups (G, 256) to their nearest codes, in place and in their own dtype; scale and zero (G, 1)."""
        scale, zero = self._ranges(rows)
        rows.div_(scale).round_().add_(zero).clamp_(0, self.most)
        return scale, zero

    def round_stochastically(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Groups (G, 256) to one of their two nearest codes each, in the dtype of the groups, which become scratch;
        scale and zero (G, 1). A NaN becomes any code: its group's scale is NaN.
        """
        scale, zero = self._ranges(rows)
        down = rows.div_(scale).floor()
        up = rows.sub_(down).nan_to_num_(0.0)
        up.bernoulli_(up, generator=generator)
        return down.add_(up).add_(zero).clamp_(0, self.most), scale, zero

    def _ranges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        zero = rows.amin(dim=1, keepdim=True).clamp_(max=0)
        scale = rows.amax(dim=1, keepdim=True).clamp_(min=0)
        scale.sub_(zero).clamp_(min=SMALLEST_RANGE).div_(self.most)
        zero.div_(scale).round_().neg_().clamp_(0, self.most)
        return scale, zero

    def pack(self, codes: Tensor) -> Tensor:
        """Codes of one tensor, flat and of any dtype but uint8, as they are stored: of 4 bits two a byte."""
        stored = codes.to(torch.uint8)
        if self.bits == 4:
            half = -(-len(stored) // 2)
            stored[: len(stored) - half].bitwise_or_(stored[half:].bitwise_left_shift_(4))
            stored = stored[:half]
        return stored


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


def _unpack(packed: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Bytes of two codes each into their elements: lower halves first, then upper ones."""
    both = torch.cat(list(packed))
    sizes = [len(codes) for codes in packed]
    lower = both.bitwise_and(15)
    torch._foreach_copy_([to[:half] for to, half in zip(out, sizes, strict=True)], list(lower.split(sizes)))
    upper = both.bitwise_right_shift_(4).split(sizes)
    pairs = [(to[half:], codes[: len(to) - half]) for to, half, codes in zip(out, sizes, upper, strict=True)]
    torch._foreach_copy_([to for to, _ in pairs], [codes for _, codes in pairs])
