"""APOLLO's step: projectors that are kept or drawn anew, the scales that Adam gives their subspace, and the way back.

Letters and equations are those of apollo.py and gradient_scaling.py.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from memprof.methods.parts.gradient_scaling import (
    SMALL,
    ScalingOptimizer,
    ScalingSettings,
    by_channel,
    factor_SR,
    limited,
    longer_first,
    step_size,
    wide_dtype,
)
from memprof.methods.parts.projection import basis_shape, is_tall
from memprof.methods.parts.random_projection import draw_, next_seed
from memprof.optimizer import Group


class Settings(ScalingSettings, Protocol):
    """What the optimizer asks of a bound `Apollo`."""

    @property
    def projection(self) -> str: ...
    @property
    def scale_type(self) -> str: ...
    @property
    def store_projector(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    @property
    def growth(self) -> float: ...


class ApolloOptimizer(ScalingOptimizer):
    """APOLLO on attention and MLP matrices, the authors' AdamW on the rest.

    state[p], beyond the moments and the limit: seed, an integer, of a random projector; basis, unless it is drawn
    anew in every step.
    """

    def __init__(self, model: nn.Module, method: Settings) -> None:
        super().__init__(model, method)
        self.method = method
        self.place = {p: i for i, p in enumerate((p for g in self.param_groups for p in g["params"]), start=1)}

    def refresh(self, p: Tensor, new: bool) -> None:
        state = self.state[p]
        if self.method.projection == "svd":
            self._refresh_by_svd(p)
            return
        state["seed"] = self.place[p] if new else next_seed(state["seed"])
        if self.method.store_projector:
            if new:
                state["basis"] = p.new_empty(basis_shape(p.shape, self.rank))
            draw_(state["basis"], state["seed"], self.rank)

    def _update_batch(self, params: list[Tensor], group: Group, step: Tensor) -> None:
        """W = W - step size * sqrt(scale) * factor * s * G, with one launch a matrix after s is known."""
        scale_KC, norms_KC = self._scales(params, group, step)
        by_matrix = norms_KC.mul_(scale_KC)
        norms_K = torch.linalg.vector_norm(by_matrix, dim=1, dtype=wide_dtype(by_matrix.dtype))
        scale_KC.mul_(limited(norms_K, self._limits(params), self.method.growth).unsqueeze(1))
        value = -step_size(group) * math.sqrt(self.method.scale)
        for p, scale_C in zip(params, scale_KC.unbind(), strict=True):
            assert p.grad is not None
            p.addcmul_(p.grad, by_channel(scale_C, p.shape), value=value)

    def _scales(self, params: list[Tensor], group: Group, step: Tensor) -> tuple[Tensor, Tensor]:
        """How Adam scales the low-rank gradients, s, and the norms of the gradients: (K, L), or (K, 1) by matrix."""
        channels = self.method.scale_type == "channel"
        norms_2KC = self._low_rank_norms(params, group, step, dim=(3,) if channels else (2, 3))
        scale_KC, norms_KC = norms_2KC.unbind()
        scale_KC.div_(norms_KC.add_(SMALL))
        grads = [p.grad for p in params if p.grad is not None]
        if channels:
            for grad, norm_L in zip(grads, norms_KC.unbind(), strict=True):
                torch.linalg.vector_norm(grad, dim=1 if is_tall(grad.shape) else 0, out=norm_L)
        else:
            torch.stack(torch._foreach_norm(grads), out=norms_KC.view(-1))
        return scale_KC, norms_KC

    def _low_rank_norms(self, params: list[Tensor], group: Group, step: Tensor, dim: tuple[int, ...]) -> Tensor:
        """Norms of Adam's steps and of the low-rank gradients: (2, K, L), or (2, K, 1) by matrix."""
        shape_2KLR = 2, len(params), max(params[0].shape), self.rank
        kept = "basis" in self.state[params[0]]
        stacked_2KLR = params[0].new_zeros(shape_2KLR) if kept else params[0].new_empty(shape_2KLR)
        updates_KLR, grads_KLR = stacked_2KLR.unbind()
        for p, update_LR, low_LR in zip(params, updates_KLR.unbind(), grads_KLR.unbind(), strict=True):
            assert p.grad is not None
            torch.mm(longer_first(p.grad), factor_SR(self._basis(p, update_LR), p.shape), out=low_LR)
        if not kept:
            updates_KLR.zero_()
        self._adam_(params, stacked_2KLR, group, step)
        norms: Tensor = torch.linalg.vector_norm(stacked_2KLR, dim=dim)
        return norms if len(dim) == 1 else norms.unsqueeze(2)

    def _basis(self, p: Tensor, scratch_LR: Tensor) -> Tensor:
        """The one that is kept, or one drawn into the beginning of `scratch`."""
        if "basis" in self.state[p]:
            basis: Tensor = self.state[p]["basis"]
            return basis
        shape = basis_shape(p.shape, self.rank)
        return draw_(scratch_LR.view(-1)[: math.prod(shape)].view(shape), self.state[p]["seed"], self.rank)
