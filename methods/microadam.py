"""MicroAdam: Adam on the largest hundredth of every gradient, over a window of ten; what is left is kept in four bits.

Modoranu et al. 2024, "MicroAdam: Accurate Adaptive Optimization with Low Space Overhead and Provable Convergence",
arXiv:2405.15593. Follows ista_daslab_optimizers 1.1.15 with alpha = 0. Every weight is treated, flat and in blocks:

    A = G + error                                       error, of 4 bits an element, as it was kept
    I, V = places and values of the largest |A|         a hundredth of every block of `block` elements, rounded up
    error = A without V, in 16 equal steps from the least to the largest of each `quant_block` elements
    W = W - lr m / (sqrt(v) + eps)                      Adam's moments, summed up anew from the last `window` V alone

Shapes: a weight has D elements; K of them are kept from a gradient; H is the window. Moments have no state: 0.9 bytes
an element is all there is, of which 4 H K / D are the window and half a byte the error.

What differs, and what to know:
* The authors' code runs on CUDA in bf16 alone, by kernels that it builds; here the same steps are plain torch, on any
  device and dtype, in fp32 scratch. It could not be run beside this one.
* Its block is half the fp32 numbers that fit the shared memory of one GPU's thread block, so that the state of a run
  depends on the GPU; here `block` is a field, at most 2^15, for places are int16. Its README quantises in blocks of
  100,000; here `quant_block` is a multiple of `block`, so that a large weight can be updated in pieces. The code has
  one pair of limits more where that divides D.
* It overwrites the gradient and needs no scratch but for the top; here the gradient stays, and scratch is bounded by
  `piece`. The window is added row by row, within which no place comes twice, so that a GPU's sums do not vary.
* A place that left the window has moments of zero at once, and its weight rests. Bias correction is Adam's, by steps.
* `alpha` (part of the error added to the update, or all of it) is not built; -2 keeps D elements more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.method import Footprint, Method, Weight, groups, named_weights
from memprof.methods.parts.microadam_layout import Layout, Piece
from memprof.methods.parts.microadam_update import update_together_
from memprof.optimizer import Group, KeepsDtypes, MethodOptimizer, with_grad
from memprof.setting import setting

PLACE_BYTES, VALUE_BYTES, LIMITS_BYTES = 2, 2, 2 * 2
SCRATCH_BYTES = 10
"""of an element, about, of which default pieces are so long that they take as much as the largest weight"""


class MicroAdamOptimizer(KeepsDtypes, MethodOptimizer):
    """MicroAdam over parameters of any shape.

    state[p]: places (H, K) int16, values (H, K) bf16, error (D / 2,) uint8, least and largest (Q,) bf16, step.
    """

    def __init__(self, model: nn.Module, method: MicroAdam) -> None:
        params = [p for _, p in named_weights(model) if p.requires_grad]
        super().__init__(
            params, {key: getattr(method, key) for key in ("lr", "betas", "eps", "weight_decay", "window")}
        )
        self.layout, self.length = method.layout, method.piece_length

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            for p in params:
                if not self.state[p]:
                    self.state[p] = self._new_state(p, group["window"])
                self.state[p]["step"] += 1
            self._update(params, group)

    def _update(self, params: Sequence[Tensor], group: Group) -> None:
        pieces = [piece for p in params for piece in Piece.cut(p, self.state[p], self.layout, self.length)]
        limit = self._scratch(self.length, params[0].element_size()) if params else 0
        for batch in groups(pieces, self._piece_scratch, limit, lambda piece: (piece.p.numel(), piece.step)):
            update_together_(batch, group, self.layout)

    def _piece_scratch(self, piece: Piece) -> int:
        return self._scratch(piece.p.numel(), piece.p.element_size())

    def _scratch(self, length: int, itemsize: int) -> int:
        return self.layout.scratch_bytes(length, itemsize)

    def _new_state(self, p: Tensor, window: int) -> dict[str, Any]:
        places, limits = self.layout.places(p.numel()), self.layout.limits(p.numel())
        return {
            "places": p.new_zeros(window, places, dtype=torch.int16),
            "values": p.new_zeros(window, places, dtype=torch.bfloat16),
            "error": p.new_zeros(-(-p.numel() // 2), dtype=torch.uint8),
            "least": p.new_zeros(limits, dtype=torch.bfloat16),
            "largest": p.new_zeros(limits, dtype=torch.bfloat16),
            "step": 0,
        }


@dataclass(frozen=True, slots=True)
class MicroAdam(Method):
    """Adam's moments from a window of sparse gradients, with the rest fed back in four bits."""

    name: ClassVar[str] = "microadam"
    paper: ClassVar[str] = "arXiv:2405.15593"
    treats: ClassVar[str] = "every weight"

    density: float = setting(0.01, "share of a gradient that enters the window", above=0, most=1, papers="0.01")
    window: int = setting(10, "how many gradients the window holds", least=1, papers="10")
    block: int = setting(16384, "elements among which the largest are sought", least=1, most=2**15)
    quant_block: int = setting(
        65536, "elements of error between two limits: an even multiple of block", papers="100,000"
    )
    piece: int | None = setting(
        None, "most elements updated at once; none: what keeps scratch to the size of the largest weight", least=2
    )
    lr: float = setting(1e-3, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if self.quant_block < 1 or self.quant_block % self.block or self.quant_block % 2:
            raise MemprofError(
                f"{self.name}: quant_block={self.quant_block} must be an even multiple of block={self.block}"
            )

    @property
    def layout(self) -> Layout:
        return Layout(self.block, self.quant_block, self.density, self.window)

    @property
    def piece_length(self) -> int:
        """Elements of a piece: whole blocks of errors, at least one."""
        if self.piece is None:
            raise MemprofError(
                f"{self.name}: the default piece depends on the model; call bind(weights) first, or set piece"
            )
        return max(1, self.piece // self.quant_block) * self.quant_block

    def bind(self, weights: Iterable[Weight]) -> Self:
        if self.piece is not None:
            return self
        return dataclasses.replace(self, piece=max(2, max(weight.nbytes for weight in weights) // SCRATCH_BYTES))

    def prepare(self, model: nn.Module) -> MicroAdamOptimizer:
        return MicroAdamOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """What one whole piece takes."""
        return self.layout.scratch_bytes(self.piece_length, next(iter(weights)).itemsize)

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.numel

    def formula(self, weight: Weight) -> Footprint:
        """places (H, K) int16 + values (H, K) bf16 + error (D / 2,) uint8 + least and largest (D / quant_block,) bf16,
        rounded up; K = the sum over blocks of density times their elements, each rounded up. No step tensor.

        Transient, of a piece of n elements: two fp32 of its size, and n bytes of errors or, if that is more, (H, K)
        places int64 and twice (H, K) values fp32.
        """
        layout, numel = self.layout, weight.numel
        window = self.window * layout.places(numel) * (PLACE_BYTES + VALUE_BYTES)
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=window + -(-numel // 2) + LIMITS_BYTES * layout.limits(numel),
            read_only=window - window // self.window,
            transient=layout.scratch_bytes(min(numel, self.piece_length), weight.itemsize),
        )
