"""Q-GaLore's step: bases when they are due, low-rank gradients, the inner optimizer on them, and back into integers.

Letters as in q_galore.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memprof.methods.parts.batches import Batches, Costs
from memprof.methods.parts.draws import generator
from memprof.methods.parts.galore_inner import AdamWInner, Inner
from memprof.methods.parts.galore_optimizer import like_views
from memprof.methods.parts.integer_basis import BasisStore
from memprof.methods.parts.integer_linear import IntegerLinear, add_products_
from memprof.methods.parts.lazy import LazyRefresh, first_vector
from memprof.methods.parts.projection import basis_shape, is_tall, low_rank_shape, project, top_subspace
from memprof.optimizer import Group, KeepsDtypes, MatrixOptimizer


def step_seed(seed: int, step: int) -> int:
    """A seed for a step's random numbers. A generator on the CPU takes 32 bits of it."""
    return (seed * 1_000_003 + step) % 2**32


class CorrectedAdamW(AdamWInner):
    """AdamW whose eps stands beside the bias-corrected root, as in bitsandbytes and torch."""

    def _adamw(
        self, params: list[Tensor], grads: list[Tensor], states: Sequence[Any], group: Group, decay: float = 0.0
    ) -> None:
        root = (1 - group["betas"][1] ** (group["step"] + 1)) ** 0.5
        super()._adamw(params, grads, states, {**group, "eps": group["eps"] * root}, decay)


class QGaLoreOptimizer(KeepsDtypes, MatrixOptimizer):
    """Q-GaLore on attention and MLP matrices, its inner optimizer on the rest.

    state[p]: the inner optimizer's moments; of a matrix, whose p is its layer's anchor, also the basis as it is kept,
    first (S,), the strongest singular vector, gap and cosines. Stochastic rounding is seeded by `seed` and the step.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Costs,
        *,
        inner: Inner,
        lazy: LazyRefresh,
        bases: BasisStore,
        rank: int,
        scale: float,
        seed: int,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(model, **hyperparameters)
        self.inner, self.lazy, self.bases = inner, lazy, bases
        self.rank, self.scale, self.seed = rank, scale, seed
        self.batches = Batches(method, self.weight_of)
        layers = [layer for layer in model.modules() if isinstance(layer, IntegerLinear)]
        self.layer_of: dict[Tensor, IntegerLinear] = {layer.anchor: layer for layer in layers}
        inner.keep_once(next(iter(self.weight_of)).device)

    def is_due(self, step: int) -> bool:
        """Never all at once: every weight has a schedule of its own."""
        return False

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        for p in params:  # before any scratch exists, so that the two never add up
            new = self._make_state(p)
            if new or refresh or self.lazy.is_due(self.state[p], group["step"]):
                self.refresh(p, compare=not new)
        draws = generator(step_seed(self.seed, group["step"]), params[0].device)
        for batch in self.batches.of(params):
            self._update_batch(batch, group, draws)

    def _make_state(self, p: Tensor) -> bool:
        """Make the state of a matrix that has none; whether it had none."""
        if self.state[p]:
            return False
        self.state[p] = {**self.bases.new(p, basis_shape(p.shape, self.rank)), "first": p.new_zeros(min(p.shape))}
        self.state[p].update(self.lazy.start(), **self.inner.new_state(p, low_rank_shape(p.shape, self.rank)))
        return True

    def refresh(self, p: Tensor, compare: bool) -> None:
        """A new basis from the present gradient, the old one where that is not finite; and perhaps a longer gap."""
        assert p.grad is not None
        state = self.state[p]
        top, finite = top_subspace(p.grad, self.rank)
        first = torch.where(finite, first_vector(top, p.shape), state["first"])
        if compare:
            self.lazy.learn(state, state["first"], first)
        state["first"].copy_(first)
        del first
        self.bases.write(state, p, top, finite)

    def _update_batch(self, params: list[Tensor], group: Group, draws: torch.Generator | None) -> None:
        """Project all, update their low-rank gradients together, add all back."""
        states = [self.state[p] for p in params]
        bases = self.bases.read(states, [basis_shape(p.shape, self.rank) for p in params])
        lows = [torch.Size(low_rank_shape(p.shape, self.rank)) for p in params]
        count = self.inner.buffers
        views = like_views(params[0].new_zeros(count * sum(map(torch.Size.numel, lows))), lows * count)
        buffers = [views[start : start + len(lows)] for start in range(0, len(views), len(lows))]
        for p, basis, grad in zip(params, bases, buffers[0], strict=True):
            assert p.grad is not None
            project(p.grad, basis, out=grad)
        updates, factor = self.inner.update(states, buffers, group)
        pairs = zip(params, bases, updates, strict=True)
        factors = [(update, basis) if is_tall(p.shape) else (basis, update) for p, basis, update in pairs]
        keep, alpha = 1 - group["lr"] * group["weight_decay"], factor * self.scale
        if self.layer_of:
            add_products_([self.layer_of[p] for p in params], factors, keep, alpha, draws)
            return
        for p, (left, right) in zip(params, factors, strict=True):
            p.addmm_(left, right, beta=keep, alpha=alpha)

    def update_others(self, params: list[Tensor], group: Group) -> None:
        self.inner.update_plain(self.state, params, group)
