"""MicroAdam's update of pieces of weights of one length, stacked: errors, the largest places, the window. No method.

Shapes: G pieces have n elements each, n / 2 bytes of error, rounded up, and K places in each of the window's H rows.
Letters and equations are those of microadam.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memprof.methods.parts.factored_moments import load_
from memprof.methods.parts.microadam_layout import Layout, Piece, Span
from memprof.optimizer import Group

LEVELS = 15
"""steps between the least and the largest of a block of errors: 4 bits"""


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
