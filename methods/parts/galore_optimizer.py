"""GaLore's step: a basis now and then, low-rank gradients, the inner optimizer on them, and the way back.

Letters as in galore.py. Descendants of GaLore change what happens between: see `correct_gradients` and `keep_rests`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memprof.method import Weight
from memprof.methods.parts.batches import Batches, Costs
from memprof.methods.parts.fused_adamw import AdamWFields
from memprof.methods.parts.galore_inner import Inner
from memprof.methods.parts.sides import Projection
from memprof.optimizer import Group, KeepsDtypes, MatrixOptimizer


class Settings(AdamWFields, Costs, Protocol):
    """What the optimizer asks of a bound `GaLore`."""

    @property
    def scale(self) -> float: ...
    @property
    def per_layer(self) -> bool: ...
    @property
    def inner_optimizer(self) -> Inner: ...
    def projection(self, weight: Weight) -> Projection: ...
    def refresh_steps(self, horizon: int) -> Sequence[int]: ...


class GaLoreOptimizer(KeepsDtypes, MatrixOptimizer):
    """GaLore on attention and MLP matrices, its inner optimizer on the rest.

    state[p]: the inner optimizer's moments; of a matrix also the basis, or the two, in the parameter's dtype. Steps are
    counted in the parameter groups.
    """

    def __init__(self, model: nn.Module, method: Settings) -> None:
        super().__init__(model, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.method, self.inner = method, method.inner_optimizer
        self.batches = Batches(method, self.weight_of)
        self.projection_of: dict[Tensor, Projection] = {
            p: method.projection(weight) for p, weight in self.weight_of.items() if weight.is_matrix
        }
        self.inner.keep_once(next(iter(self.weight_of)).device)
        if method.per_layer:
            self.update_in_backward()

    def is_due(self, step: int) -> bool:
        return step in self.method.refresh_steps(step + 1)

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        new = [self._make_state(p) for p in params]
        self.correct_gradients(params)
        for p, is_new in zip(params, new, strict=True):  # before any scratch exists, so that the two never add up
            if is_new or refresh:
                self.refresh(p)
        if self.inner.scalars:  # one count for all batches
            group = {**group, "count": self.inner.count(group, params[0].device)}
        for batch in self.batches.of(params):
            self._update_batch(batch, group)

    def correct_gradients(self, params: Sequence[Tensor]) -> None:
        """What is to be done to gradients before they are projected: nothing."""

    def keep_rests(self, params: Sequence[Tensor], lows: Sequence[Tensor], betweens: Sequence[Tensor]) -> None:
        """What is to be done with what projecting left out: nothing."""

    def refresh(self, p: Tensor) -> None:
        """New bases from the present gradient; the old ones stay where the gradient is not finite."""
        assert p.grad is not None
        tops, finite = self.projection_of[p].top(p.grad)
        for key, top in tops.items():
            basis = self.state[p][key]
            basis.copy_(torch.where(finite, top, basis))

    def _make_state(self, p: Tensor) -> bool:
        """Make the state of a matrix that has none; whether it had none."""
        if self.state[p]:
            return False
        way = self.projection_of[p]
        self.state[p] = {key: p.new_zeros(shape) for key, shape in way.bases.items()}
        self.state[p].update(self.inner.new_state(p, way.low))
        return True

    def _update_batch(self, params: list[Tensor], group: Group) -> None:
        """Project all, update their low-rank gradients together, add all back."""
        states, ways = [self.state[p] for p in params], [self.projection_of[p] for p in params]
        *buffers, betweens = self._buffers(params, ways)
        for p, way, state, low, between in zip(params, ways, states, buffers[0], betweens, strict=True):
            assert p.grad is not None
            way.project(p.grad, state, out=low, between=between)
        self.keep_rests(params, buffers[0], betweens)
        updates, factor = self.inner.update(states, buffers, group)
        keep = 1 - group["lr"] * group["weight_decay"]
        for p, way, state, update, between in zip(params, ways, states, updates, betweens, strict=True):
            p.addmm_(*way.factors(update, state, between), beta=keep, alpha=factor * self.method.scale)

    def _buffers(self, params: Sequence[Tensor], ways: Sequence[Projection]) -> list[list[Tensor]]:
        """Zeros for every weight: the inner optimizer's buffers, and what two bases need between them."""
        shapes = [*(way.low for _ in range(self.inner.buffers) for way in ways), *(way.between for way in ways)]
        views = like_views(params[0].new_zeros(sum(m * n for m, n in shapes)), shapes)
        return [views[start : start + len(ways)] for start in range(0, len(views), len(ways))]

    def update_others(self, params: list[Tensor], group: Group) -> None:
        self.inner.update_plain(self.state, params, group)


def like_views(flat: Tensor, shapes: Sequence[Any]) -> list[Tensor]:
    """Consecutive pieces of a flat buffer, of the given shapes or in the shapes of the given tensors."""
    sizes = [torch.Size(getattr(like, "shape", like)) for like in shapes]
    return [piece.view(size) for piece, size in zip(flat.split([s.numel() for s in sizes]), sizes, strict=True)]
