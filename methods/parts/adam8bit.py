"""An AdamW step on lists of block-wise 8-bit moments, as blockwise.py makes them.

Update and moments are computed in fp32, and a parameter of another dtype is rounded once a step. Scratch is bounded:
larger tensors are updated in pieces of `PIECE` elements, and smaller ones together up to as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memprof.method import groups
from memprof.methods.parts.blockwise import (
    BLOCK,
    CODES,
    SCRATCH_LIMIT,
    Maps,
    block_scratch,
    blocks_of,
    decode,
    encode,
    exempt_scratch,
    normalise_,
)
from memprof.optimizer import PIECE, fused_adamw_, narrow_, room, widen


def adam8bit_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    maps: Maps,
    step: Tensor,
    **hyperparameters: Any,
) -> None:
    """One AdamW step in place on tensors of any shapes whose moments are `new_moments`.

    step: fp32 scalar on their device (`step_tensor`), this step counted already; hyperparameters: those of
    `fused_adamw_`. Scratch: the most of `groups(tensors, scratch_bytes, SCRATCH_LIMIT)`, and `UPDATE_SCALARS`, the
    step among them. Tensors are updated flat: they must be contiguous (a gradient that is not is copied).
    """
    borders = maps.borders()
    whole = (
        Piece(p.view(-1), g.reshape(-1), {key: moment.view(-1) for key, moment in state.items()})
        for p, g, state in zip(params, grads, states, strict=True)
    )
    pieces = [piece for each in whole for piece in each.cut()]
    for group in groups(pieces, Piece.scratch, SCRATCH_LIMIT):
        _update(group, maps.numbers, borders, step, hyperparameters)


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor, or a part of whole blocks of it, as flat views."""

    param: Tensor
    grad: Tensor
    state: dict[str, Tensor]

    @property
    def is_quantised(self) -> bool:
        return self.state["exp_avg"].dtype == torch.uint8

    def scratch(self) -> int:
        numel = self.param.numel()  # of a quantised tensor's last piece perhaps fewer than of an exempt one
        return block_scratch(numel) if self.is_quantised else exempt_scratch(numel, self.param.element_size())

    def cut(self) -> list[Piece]:
        """Itself in pieces of `PIECE` elements, the last one with what is left."""
        if self.param.numel() <= PIECE:
            return [self]
        lengths = {key: PIECE // BLOCK if key.endswith("absmax") else PIECE for key in self.state}
        states = zip(*(moment.split(lengths[key]) for key, moment in self.state.items()), strict=True)
        return [
            Piece(p, g, dict(zip(self.state, parts, strict=True)))
            for p, g, parts in zip(self.param.split(PIECE), self.grad.split(PIECE), states, strict=True)
        ]


class Scratch:
    """Moments of quantised pieces in fp32: all their blocks end to end, the first moments', then the second's."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        self.pieces = pieces
        self.sizes = 2 * [piece.param.numel() for piece in pieces]
        blocks = sum(map(blocks_of, self.sizes))
        self.values = torch.empty(blocks, BLOCK, dtype=torch.float32, device=device)
        self.codes = torch.empty(blocks, BLOCK, dtype=torch.int32, device=device)
        self.absmax = torch.empty(blocks, 1, dtype=torch.float32, device=device)
        self.half = blocks // 2

    def load(self, numbers: Tensor) -> None:
        """Codes and magnitudes out of the pieces' states into what they stand for."""
        self._clear_tails(self.codes)  # no code stands there, and what does may be no index into a map
        torch._foreach_copy_(self.views(self.codes), self._states("exp_avg", "exp_avg_sq"))
        torch._foreach_copy_(self._magnitudes(), self._states("exp_avg_absmax", "exp_avg_sq_absmax"))
        for half, map_ in zip(self._halves(), numbers.split(CODES), strict=True):
            decode(map_, self.codes[half], self.absmax[half], out=self.values[half])
        self._clear_tails(self.values)

    def store(self, borders: Tensor) -> None:
        """The moments back into the pieces' states."""
        normalise_(self.values, self.absmax)
        for half, between in zip(self._halves(), (borders[: CODES - 1], borders[CODES:]), strict=True):
            encode(self.values[half], between, out=self.codes[half])
        torch._foreach_copy_(self._states("exp_avg", "exp_avg_sq"), self.views(self.codes))
        torch._foreach_copy_(self._states("exp_avg_absmax", "exp_avg_sq_absmax"), self._magnitudes())

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Of blocks (2 B, 256), each piece's elements: in its first moment's place, then in its second's."""
        return [part[:size] for part, size in zip(self._parts(buffer), self.sizes, strict=True)]

    def _halves(self) -> tuple[slice, slice]:
        """The blocks of first moments, and those of second ones."""
        return slice(self.half), slice(self.half, None)

    def _clear_tails(self, buffer: Tensor) -> None:
        """Zeros behind every size that is no multiple of 256."""
        tails = [part[size:] for part, size in zip(self._parts(buffer), self.sizes, strict=True) if size % BLOCK]
        if tails:
            torch._foreach_zero_(tails)

    def _parts(self, buffer: Tensor) -> list[Tensor]:
        return list(buffer.view(-1).split([BLOCK * blocks_of(size) for size in self.sizes]))

    def _magnitudes(self) -> list[Tensor]:
        return list(self.absmax.view(-1).split([blocks_of(size) for size in self.sizes]))

    def _states(self, *keys: str) -> list[Tensor]:
        return [piece.state[key] for key in keys for piece in self.pieces]


def _update(pieces: Sequence[Piece], numbers: Tensor, borders: Tensor, step: Tensor, hyperparameters: Any) -> None:
    """An AdamW step on pieces together; a function of its own, so that its scratch is gone before the next."""
    quantised, exempt = [p for p in pieces if p.is_quantised], [p for p in pieces if not p.is_quantised]
    scratch = Scratch(quantised, step.device)
    if quantised:
        scratch.load(numbers)
    moments, count = scratch.views(scratch.values), len(quantised)
    params, grads = [p.param for p in (*quantised, *exempt)], [p.grad for p in (*quantised, *exempt)]
    small = [p.param for p in exempt]
    copies, others = scratch.views(scratch.codes.view(torch.float32)), room(2 * small)  # the codes have been read
    wide_params = widen(params, copies[:count] + others[: len(small)])
    wide_grads = widen(grads, copies[count:] + others[len(small) :])
    fused_adamw_(
        wide_params,
        wide_grads,
        [*moments[:count], *(p.state["exp_avg"] for p in exempt)],
        [*moments[count:], *(p.state["exp_avg_sq"] for p in exempt)],
        [step] * len(pieces),
        **hyperparameters,
    )
    narrow_(params, wide_params)
    if quantised:
        scratch.store(borders)
