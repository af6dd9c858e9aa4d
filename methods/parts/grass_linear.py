"""A linear layer whose backward makes the gradients of a few rows of its weight and of no other. No method, but Grass's
layer and how its rows are chosen.

Shapes: a weight is (M, N), T tokens pass through it; R of its M rows, the output's channels, are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memprof.method import Weight
from memprof.methods.parts.anchor import AnchoredLinear, anchor
from memprof.methods.parts.draws import generator
from memprof.walk import LinearWalk

INT32_BYTES, FP32_BYTES = 4, 4
TOP, REPLACED, NOT_REPLACED = "top", "replacement", "no-replacement"
CHOICES = (TOP, REPLACED, NOT_REPLACED)
SMALLEST = 1e-30
"""added to every row's squared norm, so that there are R rows to draw and probabilities to divide by"""


def draw(squares_M: Tensor, rank: int, choice: str, draws: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """R rows drawn by their squared norms, and their scales rho = 1 / sqrt(R q); 0 of a row whose norm is 0.

    With replacement by inverting the cumulated probabilities q; without by the largest of q / Exp(1), which is drawing
    one after the other. Neither asks the host.
    """
    q_M = squares_M + SMALLEST
    q_M.div_(q_M.sum())
    if choice == REPLACED:
        points_R = torch.rand(rank, generator=draws, dtype=q_M.dtype, device=q_M.device)
        rows_R = torch.searchsorted(q_M.cumsum(0), points_R, right=True).clamp_(max=len(q_M) - 1)
    else:
        races_M = q_M / torch.empty_like(q_M).exponential_(generator=draws)
        rows_R = races_M.topk(rank).indices
    scale_R = q_M.index_select(0, rows_R).mul_(rank).rsqrt_()
    return rows_R, scale_R.mul_(squares_M.index_select(0, rows_R).sign_())


class SelectedGradient(torch.autograd.Function):
    """x W^T, with the gradient of the chosen rows on the anchor (R, N)."""

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, gradient: Tensor, weight_MN: Tensor, layer: GrassLinear) -> Tensor:
        ctx.save_for_backward(x_TN, weight_MN)
        ctx.layer = layer
        return x_TN @ weight_MN.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, weight_MN = ctx.saved_tensors
        low_RN = ctx.layer.low_gradient(grad_TM, x_TN)
        return grad_TM @ weight_MN if ctx.needs_input_grad[0] else None, low_RN, None, None


class GrassLinear(AnchoredLinear):
    """y = W x in the place of a linear layer. W (M, N) is a buffer, its gradient that of R rows, each times its scale.

    `selection` is the optimizer's state of the anchor: rows (R,) int32, for drawn rows also scale (R,) and the seed of
    the next draw. While `due`, the first backward after a step or `zero_grad` chooses anew and sets `fresh` for the
    optimizer to see, which clears both: the choice of a step that is skipped is made again.
    """

    def __init__(self, linear: nn.Linear, rank: int, choice: str) -> None:
        like = linear.weight
        low = anchor((rank, linear.in_features), like.dtype, like.device)
        super().__init__(linear.in_features, linear.out_features, low)
        self.bias, self.choice = linear.bias, choice
        self.register_buffer("weight", like.detach())
        self.weight: Tensor
        self.selection: dict[str, Any] = {}
        self.due, self.fresh = True, False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = SelectedGradient.apply(x.flatten(end_dim=-2), self.anchor, self.weight, self)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)

    def new_selection(self, seed: int) -> dict[str, Any]:
        """The first rows as they come, until a gradient has been seen."""
        rank, like = self.anchor.shape[0], self.weight
        rows = torch.arange(rank, dtype=torch.int32, device=like.device)
        return {"rows": rows} if self.choice == TOP else {"rows": rows, "scale": like.new_ones(rank), "seed": seed}

    def low_gradient(self, grad_TM: Tensor, x_TN: Tensor) -> Tensor:
        """rho (dY[:, rows])^T X, (R, N)."""
        if self.due and not (self.fresh and self.anchor.grad is not None):
            self._choose(grad_TM, x_TN)
            self.fresh = True
        chosen_TR = grad_TM.index_select(1, self.selection["rows"])
        if "scale" in self.selection:
            chosen_TR.mul_(self.selection["scale"])
        return chosen_TR.T @ x_TN

    def _choose(self, grad_TM: Tensor, x_TN: Tensor) -> None:
        """New rows by the norms of the full gradient's, which goes again; the old ones where a norm is not finite."""
        wide = torch.promote_types(grad_TM.dtype, torch.float32)
        norms_M = torch.linalg.vector_norm(grad_TM.T @ x_TN, dim=1, dtype=wide)
        rank, finite = self.anchor.shape[0], norms_M.sum().isfinite()
        if self.choice == TOP:
            new = {"rows": norms_M.topk(rank).indices}
        else:
            draws = generator(self.selection["seed"], norms_M.device)
            rows, scale = draw(norms_M.square_(), rank, self.choice, draws)
            new = {"rows": rows, "scale": scale}
        for key, value in new.items():
            old = self.selection[key]
            old.copy_(torch.where(finite, value.to(old.dtype), old))


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedBackward:
    """How autograd goes back through `SelectedGradient`: one node, whose gradients are there when it returns.

    When rows are due, the first micro-batch's backward makes the full gradient and drops it; what choosing takes after
    that is less.
    """

    full: int
    """bytes of the full gradient (M, N) and of the norms of its rows, (M,) fp32"""
    chosen: int
    """bytes of the chosen channels of a token's gradient, (R,)"""

    @classmethod
    def of(cls, weight: Weight, rank: int) -> SelectedBackward:
        norms = weight.shape[0] * max(FP32_BYTES, weight.itemsize)
        return cls(full=weight.nbytes + norms, chosen=rank * weight.itemsize)

    def __call__(self, layer: LinearWalk) -> None:
        walk, chosen = layer.walk, layer.tokens * self.chosen
        pending = layer.grad if walk.accumulating else 0
        if walk.refreshing and not walk.accumulating:
            walk.passing(f"{layer.name} full gradient", self.full)
        layer.at("gradient of rows", grad=layer.grad - pending, extra=chosen + pending)
        layer.at("chosen channels freed", extra=-chosen)
        layer.at("gradient of x", extra=layer.grad_input)
        layer.at("freed", extra=-layer.grad_output, activation=-layer.frees)
        layer.join()
        layer.at("gradient added", extra=-pending)
