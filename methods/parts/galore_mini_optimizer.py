"""GaLore-mini's step: bases when they are due, second moments, first moments, divisions, weights.

Letters as in galore_mini.py; the arithmetic of the second moments is in divisors.py.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from memprof.method import Weight, known_rank, named_weights
from memprof.methods.parts.batches import Batches, Costs
from memprof.methods.parts.divisors import Divided, divide, take_off_, update_vmeans_
from memprof.methods.parts.fused_adamw import AdamWFields
from memprof.methods.parts.lazy import HasLazySettings, LazyRefresh, first_vector
from memprof.methods.parts.projection import basis_shape, is_tall, low_rank_shape, top_subspace
from memprof.optimizer import Group, MethodOptimizer, Periodic, with_grad


class Settings(HasLazySettings, AdamWFields, Costs, Protocol):
    """What the optimizer asks of a bound `GaLoreMini`."""

    @property
    def name(self) -> str: ...
    @property
    def approach(self) -> int: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def scale(self) -> float: ...
    def divides(self, weight: Weight) -> str: ...
    def blocks(self, weight: Weight) -> int: ...


class GaLoreMiniOptimizer(Periodic, MethodOptimizer):
    """GaLore-mini on attention and MLP matrices, Adam-mini on the rest, in the order of the model.

    state[p]: exp_avg and vmean of every weight; basis, gap and cosines of a matrix. Tensors are in the parameter's
    dtype. Steps are counted from 0 in the parameter group.
    """

    def __init__(self, model: nn.Module, method: Settings) -> None:
        self.weight_of: dict[Tensor, Weight] = {parameter: weight for weight, parameter in named_weights(model)}
        self.method, self.lazy = method, LazyRefresh.of(method)
        self.rank = known_rank(method.name, method.rank)
        self.batches = Batches(method, self.weight_of)
        defaults = {"lr": method.lr, "betas": method.betas, "eps": method.eps, "step": 0}
        super().__init__(list(self.weight_of), {**defaults, "weight_decay": method.weight_decay})

    def update(self) -> None:
        asked = self.take_request()
        for group in self.param_groups:
            params = with_grad(group)
            for p in params:  # before any scratch exists, so that the two never add up
                self._prepare_state(p, group["step"], asked)
            for batch in self.batches.of(params):
                self._update_batch(batch, group)
            group["step"] += 1

    def _prepare_state(self, p: Tensor, step: int, asked: bool) -> None:
        """Make the state of a new weight; refresh a matrix that is due."""
        weight, state = self.weight_of[p], self.state[p]
        new = not state
        if new:
            state["exp_avg"] = p.new_zeros(low_rank_shape(p.shape, self.rank) if weight.is_matrix else p.shape)
            state["vmean"] = p.new_zeros((self.method.blocks(weight), 1) if p.ndim > 1 else ())
            if weight.is_matrix:
                state["basis"] = p.new_zeros(basis_shape(p.shape, self.rank))
                state.update(self.lazy.start())
        if weight.is_matrix and (new or asked or self.lazy.is_due(state, step)):
            self._refresh(p, compare=not new)

    def _refresh(self, p: Tensor, compare: bool) -> None:
        """A new basis, and a new gap if the first basis vector has hardly turned."""
        assert p.grad is not None
        state = self.state[p]
        top, finite = top_subspace(p.grad, self.rank)
        top = torch.where(finite, top, state["basis"])
        if compare:
            self.lazy.learn(state, first_vector(state["basis"], p.shape), first_vector(top, p.shape))
        state["basis"].copy_(top)

    def _update_batch(self, params: list[Tensor], group: Group) -> None:
        """Second moments, first moments, divisions, weights: each of all weights together."""
        (beta1, beta2), step = group["betas"], group["step"] + 1
        grads = [self._measured(p) for p in params]
        update_vmeans_([self.state[p]["vmean"] for p in params], grads, beta2)
        self._update_first_moments(params, grads, beta1)
        parts = dict(zip(params, divide([self._divided(p) for p in params], step, beta2, group["eps"]), strict=True))
        lr, keep = group["lr"] / (1 - beta1**step), 1 - group["lr"] * group["weight_decay"]
        for p in (p for p in params if self.weight_of[p].is_matrix):
            right = self.state[p]["basis" if is_tall(p.shape) else "exp_avg"]
            p.addmm_(parts[p], right, beta=keep, alpha=-lr * self.method.scale)
        others = [p for p in params if not self.weight_of[p].is_matrix]
        take_off_(others, [self.state[p]["exp_avg"] for p in others], [parts[p] for p in others], lr, keep)

    def _measured(self, p: Tensor) -> Tensor:
        """The gradient whose squares are averaged: in approach 1 a matrix's in its basis."""
        assert p.grad is not None
        if self.method.approach != 1 or not self.weight_of[p].is_matrix:
            return p.grad
        basis: Tensor = self.state[p]["basis"]
        return p.grad @ basis.T if is_tall(p.shape) else basis.T @ p.grad

    def _update_first_moments(self, params: list[Tensor], grads: list[Tensor], beta1: float) -> None:
        """M = beta1 * M + (1 - beta1) * G, of a matrix with its gradient in the basis, by one product if need be."""
        like: list[tuple[Tensor, Tensor]] = []
        for p, grad in zip(params, grads, strict=True):
            exp_avg, basis = self.state[p]["exp_avg"], self.state[p].get("basis")
            if basis is None or self.method.approach == 1:
                like.append((exp_avg, grad))
            else:
                left, right = (grad, basis.T) if is_tall(grad.shape) else (basis.T, grad)
                exp_avg.addmm_(left, right, beta=beta1, alpha=1 - beta1)
        if like:
            torch._foreach_lerp_([m for m, _ in like], [grad for _, grad in like], 1 - beta1)

    def _divided(self, p: Tensor) -> Divided:
        """What the second moments of a weight divide."""
        state, kind = self.state[p], self.method.divides(self.weight_of[p])
        wide = self.weight_of[p].is_matrix and not is_tall(p.shape)
        return Divided(kind, state["basis" if wide else "exp_avg"], state["vmean"])
