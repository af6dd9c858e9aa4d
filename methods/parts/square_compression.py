"""MoRA's fixed maps: how an input of N numbers becomes Q, and how Q outputs become M, both without a parameter.

"rotation" turns pieces of Q numbers, each by its place; "sharing" sums groups of inputs and copies an output to its
group. Each map has its transpose beside it, for backward. Shapes are those of mora.py; T are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ROTATION, SHARING = "rotation", "sharing"
CYCLIC, CONTIGUOUS = "cyclic", "contiguous"
TYPES = {1: (CYCLIC, CYCLIC), 2: (CONTIGUOUS, CONTIGUOUS), 3: (CONTIGUOUS, CYCLIC), 4: (CYCLIC, CONTIGUOUS)}
"""how inputs and outputs are grouped, by the number that the authors' code gives it"""
ROPE_BASE = 10_000


def square_side(shape: tuple[int, ...], rank: int, grouping: str) -> int:
    """Q of a weight (M, N)."""
    side = int(math.sqrt(sum(shape) * rank) + 0.5)
    return max(2, side // 2 * 2) if grouping == ROTATION else side


def round_up(length: int, side: int) -> int:
    """P Q: the input with its continuation."""
    return -(-length // side) * side


def angles(count: int, side: int, like: Tensor) -> Tensor:
    """Of RoPE on Q numbers at positions 0 ... P - 1: (P, Q / 2), in fp32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    places = torch.arange(count, dtype=dtype, device=like.device)
    rates = ROPE_BASE ** (-torch.arange(0, side, 2, dtype=dtype, device=like.device) / side)
    return torch.outer(places, rates)


def continued(x_TN: Tensor, length: int) -> Tensor:
    """The first `length` columns of x, x, x, ...: a view of x where it has as many, else a copy."""
    whole, rest = divmod(length, x_TN.shape[1])
    return torch.cat([x_TN] * whole + [x_TN[:, :rest]], dim=1) if length > x_TN.shape[1] else x_TN[:, :length]


def fold_(out_TN: Tensor, x_TL: Tensor) -> None:
    """The transpose of `continued`: add column j of x to column j mod N, in place."""
    for part_TL in x_TL.split(out_TN.shape[1], dim=1):
        out_TN[:, : part_TL.shape[1]].add_(part_TL)


def gather(x_TN: Tensor, side: int, grouping: str) -> Tensor:
    """Sums of groups of columns, (T, side); x itself where each group is one column."""
    if x_TN.shape[1] == side:
        return x_TN
    out = x_TN.new_zeros(x_TN.shape[0], side)
    for members, columns in _groups(x_TN, out, grouping):
        if members.shape[1] == 1:
            columns.add_(members.squeeze(1))
        else:
            torch.sum(members, dim=1, out=columns)
    return out


def spread_(out_TN: Tensor, v: Tensor, grouping: str) -> None:
    """The transpose of `gather`: add to each column what its group has, in place."""
    for members, columns in _groups(out_TN, v, grouping):
        members.add_(columns.unsqueeze(1))


def _groups(x_TN: Tensor, of: Tensor, grouping: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of x as views (T, members, groups) beside their groups' columns of `of`, larger groups first."""
    side = of.shape[1]
    each, more = divmod(x_TN.shape[1], side)
    if grouping == CYCLIC:
        if each:
            yield x_TN[:, : each * side].unflatten(1, (each, side)), of
        if more:
            yield x_TN[:, each * side :].unsqueeze(1), of[:, :more]
    else:
        border = more * (each + 1)
        if more:
            yield x_TN[:, :border].unflatten(1, (more, each + 1)).transpose(1, 2), of[:, :more]
        if each:
            yield x_TN[:, border:].unflatten(1, (side - more, each)).transpose(1, 2), of[:, more:]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Sums of groups of inputs, and copies to groups of outputs."""

    side: int
    inputs: str
    outputs: str

    def compress(self, x_TN: Tensor) -> Tensor:
        u_TQ = gather(x_TN, self.side, self.inputs)
        if missing := self._missing(x_TN):
            u_TQ[:, -missing:].add_(continued(x_TN, missing))
        return u_TQ

    def turn_back(self, grad_TQ: Tensor) -> Tensor:
        return grad_TQ

    def compress_back_(self, grad_TN: Tensor, grad_TQ: Tensor) -> None:
        """The transpose of `compress`, added to the gradient of x."""
        spread_(grad_TN, grad_TQ, self.inputs)
        if missing := self._missing(grad_TN):
            fold_(grad_TN, grad_TQ[:, -missing:])

    def decompress_(self, y_TM: Tensor, v_TQ: Tensor) -> None:
        spread_(y_TM, v_TQ, self.outputs)

    def decompress_back(self, grad_TM: Tensor) -> Tensor:
        return gather(grad_TM, self.side, self.outputs)

    def _missing(self, x_TN: Tensor) -> int:
        return -x_TN.shape[1] % self.side if self.inputs == CYCLIC else 0


@dataclass(frozen=True, slots=True)
class Rotation:
    """Pieces of x, each turned by its place as RoPE turns a position; outputs end to end."""

    cos_PH: Tensor
    sin_PH: Tensor
    """H = Q / 2 angles of each piece"""

    def compress(self, x_TN: Tensor) -> Tensor:
        return self._turned(continued(x_TN, 2 * self.cos_PH.numel()), 1)

    def turn_back(self, grad: Tensor) -> Tensor:
        return self._turned(grad, -1)

    def compress_back_(self, grad_TN: Tensor, grad: Tensor) -> None:
        """The rest of `compress`'s transpose, added to the gradient of x."""
        fold_(grad_TN, grad)

    def decompress_(self, y_TM: Tensor, v: Tensor) -> None:
        spread_(y_TM, v, CYCLIC)

    def decompress_back(self, grad_TM: Tensor) -> Tensor:
        return gather(grad_TM, 2 * self.cos_PH.numel(), CYCLIC)

    def _turned(self, x: Tensor, direction: int) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        (a, b), (out_a, out_b) = (t.unflatten(1, (len(self.cos_PH), -1)).chunk(2, dim=-1) for t in (x, out))
        torch.mul(a, self.cos_PH, out=out_a).addcmul_(b, self.sin_PH, value=-direction)
        torch.mul(b, self.cos_PH, out=out_b).addcmul_(a, self.sin_PH, value=direction)
        return out


Maps = Sharing | Rotation
