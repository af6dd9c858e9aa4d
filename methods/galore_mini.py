"""GaLore-mini: GaLore's low-rank first moment, Adam-mini's one second moment per block.

Huang et al. 2024, "GaLore-mini: Low Rank Gradient Learning with Fewer Learning Rates", NeurIPS 2024 workshop. No code
was published. Subspace, scale and gap are GaLore's, blocks and second moment Adam-mini 1.1's; the gap grows by
Q-GaLore's rule (`lazy`), which the paper names and does not spell out.

Shapes: a weight is (M, N), out and in; S and L are its shorter and longer side; R is the rank; B the number of blocks,
n the elements of a weight. The paper's three approaches, of which only the third trained stably:
1. the second moment is of the low-rank gradient, whose rows are the blocks: the output rows (or heads) of a tall
   weight, the R coordinates of a wide one, which none of Adam-mini's neurons is;
2. it is of the full gradient, by Adam-mini's blocks, and divides the low-rank first moment. How M rows divide R
   coordinates the paper does not say. Read here as each coordinate's root mean square of the rows' divisors, weighted
   by its squared basis vector. A tall weight keeps its rows under the projection and is treated as in approach 3;
3. GaLore-mini: it is of the full gradient and divides the first moment after that is back at full size.

The printed algorithm has slips. Read here as the text around it says:
* V is updated with the square of the gradient G, as step 2 and approach 3 say, not with the projected one;
* M is divided by 1 - beta1^t, as V by 1 - beta2^t, not by 1 - beta1;
* the divisor is sqrt(V) + eps as in figure 5, not sqrt(V + eps) as in algorithm 1 or V + eps as in step 6;
* the update is subtracted: W = W - lr * scale * ..., where step 7 adds.
Embedding, head and norms take Adam-mini (the paper does not say; its table counts no second moment there). Decay comes
before the update and spares norms, as in Adam-mini. What is not stated follows GaLore: lr, scale, gap, eps.
In pure fp16 the block means and eps underflow, as in Adam-mini: use bf16 or fp32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, bound_rank, groups, known_rank, named_weights
from memprof.methods.adam_mini import num_blocks
from memprof.methods.parts.divisors import COLUMNS, NONE, ROWS, SEEN, Divided, divide, take_off_, update_vmeans_
from memprof.methods.parts.lazy import LazyRefresh, first_vector
from memprof.methods.parts.projection import basis_shape, is_tall, low_rank_shape, refresh_bytes, top_subspace
from memprof.optimizer import Group, MethodOptimizer, Periodic, with_grad
from memprof.setting import setting


class GaLoreMiniOptimizer(Periodic, MethodOptimizer):
    """GaLore-mini on attention and MLP matrices, Adam-mini on the rest, in the order of the model.

    state[p]: exp_avg and vmean of every weight; basis, gap and cosines of a matrix. Tensors are in the parameter's
    dtype. Steps are counted from 0 in the parameter group.
    """

    def __init__(self, model: nn.Module, method: GaLoreMini) -> None:
        self.weight_of: dict[Tensor, Weight] = {parameter: weight for weight, parameter in named_weights(model)}
        self.method, self.lazy = method, LazyRefresh.of(method)
        self.rank = known_rank(method.name, method.rank)
        self.scratch_of = {p: method.formula(weight).transient for p, weight in self.weight_of.items()}
        self.scratch_limit = method.scratch_limit(self.weight_of.values())
        defaults = {"lr": method.lr, "betas": method.betas, "eps": method.eps, "step": 0}
        super().__init__(list(self.weight_of), {**defaults, "weight_decay": method.weight_decay})

    def update(self) -> None:
        asked = self.take_request()
        for group in self.param_groups:
            params = with_grad(group)
            for p in params:  # before any scratch exists, so that the two never add up
                self._prepare_state(p, group["step"], asked)
            for batch in groups(params, self.scratch_of.__getitem__, self.scratch_limit):
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


@dataclass(frozen=True, slots=True)
class GaLoreMini(Method):
    """GaLore whose second moment is one number per block of the full gradient."""

    name: ClassVar[str] = "galore-mini"
    paper: ClassVar[str] = "Huang et al., GaLore-mini, NeurIPS 2024 workshop"

    approach: int = setting(3, "which of the paper's three ways to combine both; only 3 is stable", least=1, most=3)
    rank: int | None = setting(None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one subspace to the next, before the gap grows", least=1)
    cos_threshold: float = setting(0.4, "mean cosine of first basis vectors at which the gap grows", most=1)
    gamma: float = setting(2.0, "factor by which the gap grows; 1 keeps it", least=1)
    queue_size: int = setting(5, "how many cosines the mean is over", least=1)
    scale: float = setting(0.25, "factor on the low-rank update", above=0)
    lr: float = setting(0.01, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, of matrices only", least=0)

    def bind(self, weights: Iterable[Weight]) -> Self:
        return dataclasses.replace(self, rank=bound_rank(self.name, self.rank, weights))

    def prepare(self, model: nn.Module) -> GaLoreMiniOptimizer:
        return GaLoreMiniOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """No more scratch than the largest weight has bytes."""
        return max(weight.nbytes for weight in weights)

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        """The schedule without laziness: an upper bound, because data decide when a gap grows."""
        return range(0, horizon, self.update_gap)

    def divides(self, weight: Weight) -> str:
        """What a weight's second moments divide: with wide weights the approaches differ."""
        if not weight.is_matrix:
            return NONE if len(weight.shape) > 1 else ROWS
        return ROWS if is_tall(weight.shape) else {1: COLUMNS, 2: SEEN, 3: ROWS}[self.approach]

    def blocks(self, weight: Weight) -> int:
        """B: Adam-mini's, of the weight itself or, in approach 1, of its low-rank gradient."""
        return known_rank(self.name, self.rank) if self.divides(weight) == COLUMNS else num_blocks(weight)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: exp_avg (R, L) + vmean (B, 1) + basis (R, S). Others: exp_avg (n,) + vmean (B, 1), of a norm ().

        B: Adam-mini's blocks; of a wide weight in approach 1 its R coordinates.
        Transient: divisors (B, 1), and what is divided: for a matrix a factor (M, R), for a vector (n,). Approach 1:
        the low-rank gradient (R, L) of a matrix; approach 2: column norms (R,) of a wide one. All in the parameter
        dtype.
        """
        rank, blocks = known_rank(self.name, self.rank), self.blocks(weight)
        if weight.is_matrix:
            bound_rank(self.name, rank, [weight])
        elements = rank * sum(weight.shape) if weight.is_matrix else weight.numel
        divided = rank * weight.shape[0] if weight.is_matrix else weight.numel
        divided = {NONE: 0, SEEN: divided + rank}.get(self.divides(weight), divided)
        low = rank * max(weight.shape) if weight.is_matrix and self.approach == 1 else 0
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=(elements + blocks) * weight.itemsize,
            transient=(low + blocks + divided) * weight.itemsize,
            refresh=refresh_bytes(weight, rank) if weight.is_matrix else 0,
        )
