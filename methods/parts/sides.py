"""Projecting a gradient from the left, the right or both sides, and taking it back. No method of its own.

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank. A left basis is (M, R), a right one
(R, N). Sides are named as in galore_torch 1.0: "std" projects tall and square weights (M >= N) from the right and wide
ones from the left, so that its basis has R * S elements and the low-rank gradient R * L; "reverse_std" the other way
round; "left" and "right" always so; "full" from both, with a low-rank gradient of (R, R).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from memprof.method import Weight
from memprof.methods.parts.projection import (
    copy_bytes,
    is_tall,
    longer_side,
    refresh_bytes,
    top_subspace,
    wide_itemsize,
)

SIDES = ("std", "reverse_std", "left", "right", "full")
BASIS, RIGHT_BASIS = "basis", "right_basis"
"""keys of a state: the basis; where there are two, the left and the right one"""


@dataclass(frozen=True, slots=True)
class Projection:
    """How one weight is projected: from the left, the right or both, to R coordinates on each such side."""

    shape: tuple[int, int]
    rank: int
    left: bool
    right: bool

    @classmethod
    def of(cls, shape: Sequence[int], rank: int, side: str = "std") -> Self:
        tall = is_tall(shape)
        left = {"std": not tall, "reverse_std": tall}.get(side, side in ("left", "full"))
        right = {"std": tall, "reverse_std": not tall}.get(side, side in ("right", "full"))
        return cls((shape[0], shape[1]), rank, left, right)

    @property
    def bases(self) -> dict[str, tuple[int, int]]:
        """Shape of each basis by its key in the state."""
        (m, n), rank = self.shape, self.rank
        one = (m, rank) if self.left else (rank, n)
        return {BASIS: one, RIGHT_BASIS: (rank, n)} if self.left and self.right else {BASIS: one}

    @property
    def low(self) -> tuple[int, int]:
        """The low-rank gradient: (R, N) from the left, (M, R) from the right, (R, R) from both."""
        return self.rank if self.left else self.shape[0], self.rank if self.right else self.shape[1]

    @property
    def between(self) -> tuple[int, int]:
        """What stands half-way between full size and (R, R): (R, N) of a tall weight, (M, R) of a wide one."""
        if not (self.left and self.right):
            return 0, 0
        return (self.rank, self.shape[1]) if is_tall(self.shape) else (self.shape[0], self.rank)

    def project(self, grad_MN: Tensor, bases: Mapping[str, Tensor], out: Tensor, between: Tensor) -> None:
        """The gradient's coordinates in the bases, into `out`; `between` is scratch."""
        basis = bases[BASIS]
        if not self.right:
            torch.mm(basis.T, grad_MN, out=out)
        elif not self.left:
            torch.mm(grad_MN, basis.T, out=out)
        elif is_tall(self.shape):
            torch.mm(torch.mm(basis.T, grad_MN, out=between), bases[RIGHT_BASIS].T, out=out)
        else:
            torch.mm(basis.T, torch.mm(grad_MN, bases[RIGHT_BASIS].T, out=between), out=out)

    def factors(self, low: Tensor, bases: Mapping[str, Tensor], between: Tensor) -> tuple[Tensor, Tensor]:
        """Two factors whose product is the low-rank matrix taken back to (M, N); `between` is scratch."""
        basis = bases[BASIS]
        if not self.right:
            return basis, low
        if not self.left:
            return low, basis
        if is_tall(self.shape):
            return basis, torch.mm(low, bases[RIGHT_BASIS], out=between)
        return torch.mm(basis, low, out=between), bases[RIGHT_BASIS]

    def top(self, grad_MN: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The bases for a gradient, by key, and whether they are valid: a 0-d bool on the gradient's device."""
        short, finite = top_subspace(grad_MN, self.rank)
        if self.left != self.right and self.right == is_tall(self.shape):
            return {BASIS: short}, finite
        long = longer_side(grad_MN, short)
        if self.left != self.right:
            return {BASIS: long}, finite
        left, right = (long, short) if is_tall(self.shape) else (short, long)
        return {BASIS: left, RIGHT_BASIS: right}, finite

    def refresh_bytes(self, weight: Weight) -> int:
        """The worst instant of `top`: those of `refresh_bytes`, and for a basis of the longer side, w as there:

        copy of G (M, N) w, unless G is so wide itself + shorter side's (S, R) w + product (L, R) w + finite () bool
        shorter side's (S, R) w + product (L, R) w + its factors (L, R) w and (R, R) w + finite () bool
        shorter side's (S, R) w + basis (L, R) w + its magnitudes (L, R) w + argmax (R,) int64 + finite () bool
        """
        most = refresh_bytes(weight, self.rank)
        if self.left != self.right and self.right == is_tall(self.shape):
            return most
        row = wide_itemsize(weight.itemsize) * self.rank
        short, long = row * min(self.shape), row * max(self.shape)
        factors = max(row * self.rank, 8 * self.rank)
        return max(most, copy_bytes(weight) + short + long + 1, short + 2 * long + factors + 1)
