"""MicroAdam's update of pieces of weights of one length, stacked: errors, the largest places, the window. No method.

Shapes: G pieces have n elements each, n / 2 bytes of error, rounded up, and K places in each of the window's H rows.
Letters and equations are those of microadam.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from memprof.methods.adafactor import FP32_BYTES, load_
from memprof.optimizer import Group

INT64_BYTES, BF16_BYTES = 8, 2
LEVELS = 15
"""steps between the least and the largest of a block of errors: 4 bits"""


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks of one size in a piece: `count` of them from element `start`; of each, `kept` numbers in the state, the
    first of all at `first`."""

    start: int
    count: int
    size: int
    kept: int
    first: int

    @property
    def places(self) -> int:
        return self.count * self.kept

    def of(self, rows: Tensor) -> Tensor:
        """(G, count, size) of a piece's (G, n)."""
        blocks: Tensor = rows.narrow(1, self.start, self.count * self.size).unflatten(1, (self.count, self.size))
        return blocks

    def kept_of(self, rows: Tensor) -> Tensor:
        """(..., count, kept) of a piece's state, or of rows of it."""
        kept: Tensor = rows.narrow(-1, self.first, self.places).unflatten(-1, (self.count, self.kept))
        return kept


@dataclass(frozen=True, slots=True)
class Layout:
    """Where what lies in a weight's flat state."""

    block: int
    quant_block: int
    density: float
    window: int

    def spans(self, n: int) -> list[Span]:
        """Blocks among which the largest are sought."""
        return _spans(n, self.block, lambda size: math.ceil(size * self.density))

    def error_spans(self, n: int) -> list[Span]:
        """Blocks of errors, with one least and one largest of each."""
        return _spans(n, self.quant_block, lambda size: 1)

    def places(self, n: int) -> int:
        """K"""
        return sum(span.places for span in self.spans(n))

    def limits(self, n: int) -> int:
        """Q, how many blocks of errors there are."""
        return sum(span.places for span in self.error_spans(n))

    def scratch_bytes(self, n: int, itemsize: int) -> int:
        """The worst instant of a piece's update, w = 4 bytes (8 for fp64), Q its blocks of errors:

        two of its size (n,) w, beside the largest of
        packed errors (n / 2,) uint8 + one half of them unpacked
        least and step of blocks of errors (Q,) w + one of them (Q,) bf16
        the window's places (H, K) int64 + values (H, K) w + their squares (H, K) w
        """
        w = max(FP32_BYTES, itemsize)
        limits = max(span.places for span in self.error_spans(n))
        kept = max(span.places for span in self.spans(n))
        return 2 * w * n + max(
            2 * -(-n // 2), (2 * w + BF16_BYTES) * limits, (INT64_BYTES + 2 * w) * self.window * kept
        )


def _spans(n: int, size: int, kept: Callable[[int], int]) -> list[Span]:
    """Whole blocks, and a shorter one at the end."""
    whole, rest = divmod(n, size)
    spans = [Span(0, whole, size, kept(size), 0)] if whole else []
    return [*spans, Span(whole * size, 1, rest, kept(rest), whole * kept(size))] if rest else spans


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a weight, flat, and of its state. `step` counts this one."""

    p: Tensor
    grad: Tensor
    error: Tensor
    least: Tensor
    largest: Tensor
    places: Tensor
    values: Tensor
    step: int

    @classmethod
    def cut(cls, p: Tensor, state: dict[str, Any], layout: Layout, length: int) -> Iterator[Self]:
        assert p.grad is not None
        flat, grad, numel = p.view(-1), p.grad.reshape(-1), p.numel()
        step = state["step"]
        for start in range(0, numel, length):
            end = min(start + length, numel)
            halves, limits = slice(start // 2, -(-end // 2)), slice(layout.limits(start), layout.limits(end))
            kept = slice(layout.places(start), layout.places(end))
            yield cls(
                flat[start:end], grad[start:end], state["error"][halves], state["least"][limits],
                state["largest"][limits], state["places"][:, kept], state["values"][:, kept], step,
            )  # fmt: skip


def update_together_(pieces: Sequence[Piece], group: Group, layout: Layout) -> None:
    """One MicroAdam step; a function of its own, so that its scratch ends with it."""
    p = pieces[0].p
    wide = torch.promote_types(p.dtype, torch.float32)
    rows, room = torch.empty(2, len(pieces), p.numel(), dtype=wide, device=p.device)
    spans, error_spans = layout.spans(p.numel()), layout.error_spans(p.numel())
    unpack_(rows, pieces)
    for span in error_spans:
        scale_(span.of(rows), pieces, span)
    load_(room, [piece.grad for piece in pieces])
    rows.add_(room)
    for span in spans:
        take_largest_(span.of(rows), span.of(room), pieces, span, group["window"])
    for span in error_spans:
        round_(span.of(rows), pieces, span)
    pack_(rows, pieces)
    moments_(rows, room, pieces, spans, group)
    move_(rows, room, pieces, group)


def unpack_(rows: Tensor, pieces: Sequence[Piece]) -> None:
    """Errors in steps above the least of their block; an even element is the upper half of its byte."""
    codes = torch.stack([piece.error for piece in pieces])
    rows[:, 0::2] = codes >> 4
    rows[:, 1::2] = codes.bitwise_and_(15)[:, : rows.shape[1] // 2]


def pack_(rows: Tensor, pieces: Sequence[Piece]) -> None:
    codes = rows[:, 0::2].to(torch.uint8).mul_(16)
    codes[:, : rows.shape[1] // 2] += rows[:, 1::2].to(torch.uint8)
    torch._foreach_copy_([piece.error for piece in pieces], list(codes.unbind()))


def scale_(blocks: Tensor, pieces: Sequence[Piece], span: Span) -> None:
    """Errors out of steps."""
    least, unit = (
        torch.stack([span.kept_of(limit) for limit in limits]).to(blocks.dtype)
        for limits in ([piece.least for piece in pieces], [piece.largest for piece in pieces])
    )
    blocks.mul_(unit.sub_(least).div_(LEVELS)).add_(least)


def round_(blocks: Tensor, pieces: Sequence[Piece], span: Span) -> None:
    """What is left of A, in its place, in steps above the least of its block; the limits are rounded first."""
    limits = torch.aminmax(blocks, dim=-1, keepdim=True)
    for limit, kept in zip(
        limits, ([piece.least for piece in pieces], [piece.largest for piece in pieces]), strict=True
    ):
        views = [span.kept_of(each) for each in kept]
        torch._foreach_copy_(views, list(limit.unbind()))
        load_(limit, views)
    least, largest = limits
    unit = largest.sub_(least).div_(LEVELS).clamp_min_(torch.finfo(largest.dtype).tiny)
    blocks.sub_(least).div_(unit).round_().clamp_(0, LEVELS)


def take_largest_(rows: Tensor, room: Tensor, pieces: Sequence[Piece], span: Span, window: int) -> None:
    """The largest of each block move into the window, where its oldest row was."""
    torch.abs(rows, out=room)
    places = room.topk(span.kept, sorted=False).indices
    values = rows.gather(-1, places)
    rows.scatter_(-1, places, 0.0)
    row = (pieces[0].step - 1) % window
    torch._foreach_copy_([span.kept_of(piece.places[row]) for piece in pieces], list(places.unbind()))
    torch._foreach_copy_([span.kept_of(piece.values[row]) for piece in pieces], list(values.unbind()))


def moments_(first: Tensor, second: Tensor, pieces: Sequence[Piece], spans: Sequence[Span], group: Group) -> None:
    """m and v, bias-corrected, out of the window's rows, each by its age."""
    (beta1, beta2), step, window = group["betas"], pieces[0].step, group["window"]
    first.zero_()
    second.zero_()
    ages = [(step - 1 - row) % window for row in range(window)]
    for span in spans:
        add_window_(
            span.of(first), span.of(second), pieces, span, [[beta**age for age in ages] for beta in (beta1, beta2)]
        )
    first.mul_((1 - beta1) / (1 - beta1**step))
    second.mul_((1 - beta2) / (1 - beta2**step))


def add_window_(
    first: Tensor, second: Tensor, pieces: Sequence[Piece], span: Span, weights: Sequence[Sequence[float]]
) -> None:
    """Weighted values and their squares, row by row: within one no place comes twice. A row yet to come is zeros."""
    places = torch.stack([span.kept_of(piece.places) for piece in pieces], dim=1).long()
    values = torch.stack([span.kept_of(piece.values) for piece in pieces], dim=1).to(first.dtype)
    squares = values.square()
    for sums, numbers, by_age in ((first, values, weights[0]), (second, squares, weights[1])):
        torch._foreach_mul_(list(numbers.unbind()), by_age)
        for where, what in zip(places.unbind(), numbers.unbind(), strict=True):
            sums.scatter_add_(-1, where, what)


def move_(first: Tensor, second: Tensor, pieces: Sequence[Piece], group: Group) -> None:
    """W = (1 - lr decay) W - lr m / (sqrt(v) + eps), rounded once."""
    first.div_(second.sqrt_().add_(group["eps"]))
    params = [piece.p for piece in pieces]
    load_(second, params)
    if group["weight_decay"]:
        second.mul_(1 - group["lr"] * group["weight_decay"])
    second.sub_(first, alpha=group["lr"])
    torch._foreach_copy_(params, list(second.unbind()))
