"""LoQT's layer: y = q(W) x + alpha B A x with a quantised weight and a quantised projection, and its update.

Letters and equations are those of loqt.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from memprof.methods.parts import nf4
from memprof.methods.parts.anchor import AnchoredLinear, anchor
from memprof.methods.parts.products import scaled_product
from memprof.methods.parts.projection import basis_shape, is_tall, low_rank_shape, top_subspace

RIDGE = 1e-30
"""added to the diagonal of P P^T, so that a projection of zeros has the pseudoinverse zero"""


class QuantisedProduct(torch.autograd.Function):
    """The layer's output; backward gives the factor its gradient, or in an update step the anchor the full-rank one."""

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, factor: Tensor, anchor_MN: Tensor, layer: LoQTLinear, full_rank: bool) -> Tensor:  # fmt: skip  # noqa: E501
        ctx.save_for_backward(x_TN, factor)
        ctx.layer, ctx.full_rank = layer, full_rank
        if full_rank:
            return x_TN @ layer.requantised().T
        y_TM = x_TN @ layer.weight().T
        a_RN, b_MR = layer.pair(layer.projection())
        return y_TM.addmm_(x_TN @ a_RN.T, b_MR.T, alpha=layer.alpha)

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, factor = ctx.saved_tensors
        layer: LoQTLinear = ctx.layer
        if ctx.full_rank:
            grad_x = grad_TM @ layer.requantised()
            return grad_x, None, grad_TM.T @ x_TN, None, None
        grad_x = grad_TM @ layer.weight()
        projection = layer.projection()
        if layer.tall:
            grad_x.addmm_(grad_TM @ factor, projection, alpha=layer.alpha)
            h_TR = x_TN @ projection.T
            del projection
            return grad_x, scaled_product(grad_TM.T, h_TR, layer.alpha), None, None, None
        grad_h = grad_TM @ projection
        del projection
        grad_x.addmm_(grad_h, factor, alpha=layer.alpha)
        return grad_x, scaled_product(grad_h.T, x_TN, layer.alpha), None, None, None


class LoQTLinear(AnchoredLinear):
    """y = q(W) x + alpha B A x, in the place of a linear layer whose weight becomes NF4."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, table: Tensor) -> None:
        like = linear.weight
        super().__init__(linear.in_features, linear.out_features, anchor(like.shape, like.dtype, like.device))
        self.bias, self.alpha, self.table = linear.bias, alpha, table
        self.tall = is_tall(like.shape)
        self.shapes = basis_shape(like.shape, rank)
        self.factor = nn.Parameter(like.new_zeros(low_rank_shape(like.shape, rank)))
        self.updating = True
        for name, numel in (("weight", like.numel()), ("projection", math.prod(self.shapes))):
            codes, absmax = nf4.empty(numel, like.device)
            self.register_buffer(f"{name}_codes", codes)
            self.register_buffer(f"{name}_absmax", absmax)
        nf4.quantise_(*self._stored("weight"), like.detach(), table)

    def _stored(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_codes"), self.get_buffer(f"{name}_absmax")

    def weight(self) -> Tensor:
        """q(W), (M, N) in the parameter dtype."""
        out = torch.empty(self.out_features, self.in_features, dtype=self.factor.dtype, device=self.factor.device)
        return nf4.dequantise(*self._stored("weight"), self.table, out)

    def projection(self) -> Tensor:
        """A (R, N) or B (M, R) in the parameter dtype."""
        return nf4.dequantise(*self._stored("projection"), self.table, self.factor.new_empty(self.shapes))

    def pair(self, projection: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A and B, out of the projection and the trained factor, or another one."""
        factor = self.factor if factor is None else factor
        return (projection, factor) if self.tall else (factor, projection)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """V = q(W) + alpha B A."""
        weight_MN = self.weight()
        a_RN, b_MR = self.pair(self.projection())
        return weight_MN.addmm_(b_MR, a_RN, alpha=self.alpha)

    @torch.no_grad()
    def requantised(self) -> Tensor:
        """q(V), dequantised."""
        merged_MN = self.merged()
        codes, absmax = nf4.empty(merged_MN.numel(), merged_MN.device)
        nf4.quantise_(codes, absmax, merged_MN, self.table)
        return nf4.dequantise(codes, absmax, self.table, merged_MN)

    def forward(self, x: Tensor) -> Tensor:
        full_rank = self.updating and torch.is_grad_enabled()
        y: Tensor = QuantisedProduct.apply(x.flatten(end_dim=-2), self.factor, self.anchor, self, full_rank)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def update(self, rank: int, iterations: int) -> None:
        """A new projection from the anchor's gradient, and weight and factor made for it. No host read."""
        assert self.anchor.grad is not None
        top, finite = top_subspace(self.anchor.grad, rank)
        merged_MN = self.merged()
        projection = self.projection()
        projection.copy_(torch.where(finite, top, projection))
        del top, finite
        nf4.quantise_(*self._stored("projection"), projection, self.table)
        nf4.dequantise(*self._stored("projection"), self.table, projection)
        if iterations:
            self._compensate(merged_MN, projection, iterations)
        else:
            nf4.quantise_(*self._stored("weight"), merged_MN, self.table)
            self.factor.zero_()

    def _compensate(self, merged_MN: Tensor, projection: Tensor, iterations: int) -> None:
        """Weight and factor by turns; each best pair so far is stored."""
        inverse_RS = pseudoinverse(projection if self.tall else projection.T)
        wide = torch.promote_types(merged_MN.dtype, torch.float32)
        least = torch.full((), math.inf, dtype=wide, device=merged_MN.device)
        work_MN = merged_MN.clone()
        codes, absmax = nf4.empty(merged_MN.numel(), merged_MN.device)
        for left in reversed(range(iterations)):
            nf4.quantise_(codes, absmax, work_MN, self.table)
            nf4.dequantise(codes, absmax, self.table, work_MN)
            torch.sub(merged_MN, work_MN, out=work_MN)
            sides = (work_MN, inverse_RS.T) if self.tall else (inverse_RS, work_MN)
            factor = scaled_product(*sides, 1 / self.alpha)
            a_RN, b_MR = self.pair(projection, factor)
            error = torch.linalg.vector_norm(work_MN.addmm_(b_MR, a_RN, alpha=-self.alpha), dtype=wide)
            self._keep(error < least, codes, absmax, factor)
            torch.minimum(least, error, out=least)
            if left:
                work_MN.copy_(merged_MN).addmm_(b_MR, a_RN, alpha=-self.alpha)
            del factor, a_RN, b_MR, sides, error

    def _keep(self, better: Tensor, *pair: Tensor) -> None:
        """Codes, magnitudes and factor in place of those that are stored, where they are better."""
        for kept, new in zip((*self._stored("weight"), self.factor), pair, strict=True):
            kept.copy_(torch.where(better, new, kept))


def pseudoinverse(p_RS: Tensor) -> Tensor:
    """(P P^T)^-1 P, (R, S): the transpose of P^+, of a P with full row rank. In fp32 at least."""
    wide_RS = p_RS.to(torch.promote_types(p_RS.dtype, torch.float32))
    gram_RR = wide_RS @ wide_RS.T
    gram_RR.diagonal().add_(RIDGE)
    lower_RR = torch.linalg.cholesky_ex(gram_RR).L
    del gram_RR
    return torch.cholesky_solve(wide_RS, lower_RR).to(p_RS.dtype)
