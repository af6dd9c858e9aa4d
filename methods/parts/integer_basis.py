"""A projection's basis kept in integers, or as it is: Q-GaLore's projector. No method.

Shapes: a basis has n = R S elements, R the rank and S a weight's shorter side; G = ceil(n / 256). In a state: basis,
flat codes (uint8, of 4 bits two a byte), basis_scale and basis_zero (G, 1) in the weight's dtype; without integers
basis, in its own shape and the weight's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memprof.method import Weight
from memprof.methods.parts.integers import Integers, Packed
from memprof.methods.parts.projection import refresh_bytes, wide_itemsize

BASIS, SCALE, ZERO = "basis", "basis_scale", "basis_zero"


@dataclass(frozen=True, slots=True)
class BasisStore:
    """How bases are kept."""

    integers: Integers | None

    def new(self, p: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """What a weight's state begins with."""
        numel, integers = shape[0] * shape[1], self.integers
        if integers is None:
            return {BASIS: p.new_zeros(shape)}
        grids = {key: p.new_zeros(integers.groups(numel), 1) for key in (SCALE, ZERO)}
        return {BASIS: p.new_zeros(integers.code_bytes(numel), dtype=torch.uint8), **grids}

    def read(self, states: Sequence[dict[str, Any]], shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Several bases as they are computed with: themselves, or read back into scratch."""
        if self.integers is None:
            return [state[BASIS] for state in states]
        packs = [Packed(state[BASIS], state[SCALE], state[ZERO]) for state in states]
        _, flats = self.integers.read(packs, [m * n for m, n in shapes])
        return [flat.view(shape) for flat, shape in zip(flats, shapes, strict=True)]

    def write(self, state: dict[str, Any], p: Tensor, top: Tensor, valid: Tensor) -> None:
        """A new basis, in any dtype, where `valid`, () bool; else the old one stays."""
        if self.integers is None:
            state[BASIS].copy_(torch.where(valid, top, state[BASIS]))
            return
        rows, (flat,) = self.integers.empty([top.numel()], p)
        flat.view(top.shape).copy_(top)
        scale, zero = self.integers.round_(rows)
        codes = self.integers.pack(flat)
        del rows, flat
        for key, new in ((BASIS, codes), (SCALE, scale), (ZERO, zero)):
            state[key].copy_(torch.where(valid, new, state[key]))

    def state_bytes(self, numel: int, itemsize: int) -> int:
        return numel * itemsize if self.integers is None else self.integers.stored_bytes(numel, itemsize)

    def scratch_bytes(self, numel: int, itemsize: int) -> int:
        """A basis read back, in whole groups; as it is it takes none."""
        return 0 if self.integers is None else self.integers.padded(numel) * itemsize

    def refresh_bytes(self, weight: Weight, rank: int) -> int:
        """The worst instant of a refresh: of `top_subspace`, or, with w as there and e bytes of the weight's dtype:

        top vectors (S, R) w + they in whole groups (G, 256) e + scale and zero 2 (G, 1) e + codes (n,) uint8 + finite
        () bool
        """
        most = refresh_bytes(weight, rank)
        if self.integers is None:
            return most
        numel, e = rank * min(weight.shape), weight.itemsize
        scales = self.integers.scale_bytes(numel, e)
        return max(most, wide_itemsize(e) * numel + self.scratch_bytes(numel, e) + scales + numel + 1)
