"""Where what lies in a weight's flat state under MicroAdam: blocks, limits, window; and a weight cut into pieces.

Letters are those of microadam.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from memprof.methods.parts.factored_moments import FP32_BYTES

INT64_BYTES, BF16_BYTES = 8, 2


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
