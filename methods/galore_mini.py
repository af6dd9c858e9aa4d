"""GaLore-mini: GaLore's low-rank first moment, Adam-mini's one second moment per block of the full gradient.

Huang et al. 2024, "GaLore-mini: Low Rank Gradient Learning with Fewer Learning Rates", NeurIPS 2024 workshop. No code
was published. This is the paper's approach 3, the one of its three that trains stably: the second moment is the block
mean of the squared full gradient, the first lives in the subspace, is taken back to full size and only then divided.
Subspace, scale and gap are GaLore's, blocks and second moment Adam-mini 1.1's; the gap grows as in Q-GaLore
(Zhang et al. 2024, arXiv:2407.08296, q_galore_torch 1.0), which the paper names and does not spell out.

Shapes: a weight is (M, N), out and in; S and L are its shorter and longer side; R is the rank; B the number of blocks,
n the elements of a weight.

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
from memprof.methods.adam_mini import as_blocks, denominators, num_blocks, update_vmeans_
from memprof.methods.galore import (
    basis_shape,
    is_tall,
    low_rank_shape,
    refresh_bytes,
    top_subspace,
)
from memprof.optimizer import Group, MethodOptimizer, Periodic, with_grad
from memprof.setting import setting


def update_low_rank_moment_(exp_avg: Tensor, grad_MN: Tensor, basis: Tensor, beta1: float) -> None:
    """M = beta1 * M + (1 - beta1) * projected G, without the projected gradient in memory."""
    left, right = (grad_MN, basis.T) if is_tall(grad_MN.shape) else (basis.T, grad_MN)
    exp_avg.addmm_(left, right, beta=beta1, alpha=1 - beta1)


def similarity(old_S: Tensor, new_S: Tensor) -> float | None:
    """Cosine of the old and the new first basis vector: the one host read, at refresh time. None on meta tensors."""
    if new_S.is_meta:
        return None
    return float(torch.nn.functional.cosine_similarity(old_S.to(new_S.dtype), new_S, dim=0))


def learned_gap(gap: int, cosines: Sequence[float], method: GaLoreMini) -> int:
    """Q-GaLore's rule: gamma times the gap once the last `queue_size` cosines average the threshold. No cap."""
    full = len(cosines) == method.queue_size
    return int(gap * method.gamma) if full and sum(cosines) / len(cosines) >= method.cos_threshold else gap


class GaLoreMiniOptimizer(Periodic, MethodOptimizer):
    """GaLore-mini on attention and MLP matrices, Adam-mini on the rest, in the order of the model.

    state[p]: exp_avg and vmean of every weight; basis, gap and cosines of a matrix. Tensors are in the parameter's
    dtype. Steps are counted from 0 in the parameter group.
    """

    def __init__(self, model: nn.Module, method: GaLoreMini) -> None:
        self.weight_of: dict[Tensor, Weight] = {parameter: weight for weight, parameter in named_weights(model)}
        self.method = method
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
            state["vmean"] = p.new_zeros((num_blocks(weight), 1) if p.ndim > 1 else ())
            if weight.is_matrix:
                state["basis"] = p.new_zeros(basis_shape(p.shape, self.rank))
                state["gap"], state["cosines"] = self.method.update_gap, []
        if weight.is_matrix and (new or asked or step % state["gap"] == 0):
            self._refresh(p, compare=not new)

    def _refresh(self, p: Tensor, compare: bool) -> None:
        """A new basis, and a new gap if the first basis vector has hardly turned."""
        assert p.grad is not None
        state, first = self.state[p], 0 if is_tall(p.shape) else 1
        top, finite = top_subspace(p.grad, self.rank)
        top = torch.where(finite, top, state["basis"])
        cosine = similarity(state["basis"].select(first, 0), top.select(first, 0)) if compare else None
        if cosine is not None:
            state["cosines"] = [*state["cosines"], cosine][-self.method.queue_size :]
            state["gap"] = learned_gap(state["gap"], state["cosines"], self.method)
        state["basis"].copy_(top)

    def _update_batch(self, params: list[Tensor], group: Group) -> None:
        """Second moments and denominators of all in a few calls; then the matrices and the rest, each in its way."""
        beta1, beta2 = group["betas"]
        vmeans = [self.state[p]["vmean"] for p in params]
        update_vmeans_(vmeans, [p.grad for p in params], beta2)  # type: ignore[misc]
        roots = denominators(vmeans, group["step"] + 1, beta2, group["eps"])
        lr = group["lr"] / (1 - beta1 ** (group["step"] + 1))
        keep = 1 - group["lr"] * group["weight_decay"]
        pairs = list(zip(params, roots, strict=True))
        self._update_matrices([pair for pair in pairs if self.weight_of[pair[0]].is_matrix], beta1, lr, keep)
        self._update_others([pair for pair in pairs if not self.weight_of[pair[0]].is_matrix], beta1, lr, keep)

    def _update_matrices(self, pairs: list[tuple[Tensor, Tensor]], beta1: float, lr: float, keep: float) -> None:
        """W = keep * W - lr * scale * (moment at full size) / denominator.

        A denominator belongs to whole rows, so dividing the product is dividing the rows of its left factor, (M, R):
        the moment of a tall weight, the basis of a wide one. So nothing of full size is made.
        """
        lefts, rights = [], []
        for p, _ in pairs:
            exp_avg, basis = self.state[p]["exp_avg"], self.state[p]["basis"]
            assert p.grad is not None
            update_low_rank_moment_(exp_avg, p.grad, basis, beta1)
            lefts.append(exp_avg if is_tall(p.shape) else basis)
            rights.append(basis if is_tall(p.shape) else exp_avg)
        if pairs:
            blocks = [as_blocks(left, root.numel()) for left, (_, root) in zip(lefts, pairs, strict=True)]
            divided = torch._foreach_div(blocks, [root for _, root in pairs])
            for (p, _), left, right, part in zip(pairs, lefts, rights, divided, strict=True):
                p.addmm_(part.view(left.shape), right, beta=keep, alpha=-lr * self.method.scale)

    def _update_others(self, pairs: list[tuple[Tensor, Tensor]], beta1: float, lr: float, keep: float) -> None:
        decayed = [p for p, _ in pairs if p.ndim > 1]
        if decayed and keep != 1:
            torch._foreach_mul_(decayed, keep)
        params, roots = [p for p, _ in pairs], [root for _, root in pairs]
        moments = [self.state[p]["exp_avg"] for p in params]
        if pairs:
            torch._foreach_lerp_(moments, [p.grad for p in params], 1 - beta1)  # type: ignore[misc]
            torch._foreach_addcdiv_(
                [as_blocks(p, root.numel()) for p, root in pairs],
                [as_blocks(m, root.numel()) for m, root in zip(moments, roots, strict=True)],
                roots,
                value=-lr,
            )


@dataclass(frozen=True, slots=True)
class GaLoreMini(Method):
    """GaLore whose second moment is one number per block of the full gradient."""

    name: ClassVar[str] = "galore-mini"
    paper: ClassVar[str] = "Huang et al., GaLore-mini, NeurIPS 2024 workshop"

    rank: int | None = setting(None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one subspace to the next, before the gap grows", least=1)
    cos_threshold: float = setting(0.4, "mean cosine of first basis vectors at which the gap grows", most=1)
    gamma: float = setting(2.0, "factor by which the gap grows", least=1)
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
        """The schedule before any data has made a gap grow."""
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: exp_avg (R, L) + vmean (B, 1) + basis (R, S). Others: exp_avg (n,) + vmean (B, 1), of a norm ().

        Transient: denominators (B, 1), and for a matrix its divided factor (M, R). All in the parameter dtype.
        """
        rank = known_rank(self.name, self.rank)
        blocks = num_blocks(weight)
        if weight.is_matrix:
            bound_rank(self.name, rank, [weight])
        elements = rank * (weight.shape[0] + weight.shape[1]) if weight.is_matrix else weight.numel
        factor = rank * weight.shape[0] if weight.is_matrix else 0
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=(elements + blocks) * weight.itemsize,
            transient=(factor + blocks) * weight.itemsize,
            refresh=refresh_bytes(weight, rank) if weight.is_matrix else 0,
        )
