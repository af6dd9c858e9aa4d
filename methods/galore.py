"""GaLore: AdamW on gradients projected into their own top singular subspace.

Zhao et al. 2024, "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv:2403.03507.
Follows the authors' galore_torch 1.0 (AdamW with proj_type "std"). Attention and MLP matrices are projected;
embedding, head and norms take the authors' own AdamW class, Hugging Face's: eps is not bias-corrected, and the
weights decay after the update.

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank. Tall and square weights (M >= N)
are projected from the right, basis (R, N) and low-rank gradient (M, R); wide ones from the left, basis (M, R) and
low-rank gradient (R, N). So the basis is always R * S elements and the moments R * L each.

Where this and the authors' code differ:
* they take the SVD of the gradient; here the eigenvectors of its Gram matrix, the same subspace at a fraction of the
  cost. The sign of a singular vector is arbitrary and old moments are re-read in the new basis, so each vector's
  largest entry is made positive. The Gram matrix squares the condition number, so in fp32 the weak end of a wide basis
  is rougher than an SVD's: on real gradients of a 60m model Adam's first update was 3e-2 (singular values down to 3 %
  of the largest, rank 128 of 512) or 2e-1 (down to 1 %) off the fp64 one, an fp32 SVD's 3e-5 or 8e-3; at rank 8, 4e-6.
  The energy captured is the same to 1e-6;
* in fp32 runs they keep a view of U or V^T, which keeps the whole S x S factor alive; the basis here is a copy;
* they project, update and add back with full-size temporaries; here one kernel updates the moments of many weights
  and one matrix product folds learning rate, scale and decay into the weight;
* the paper refreshes every 200 steps with scale 0.25 (the defaults here), the command line of their code every 50
  with scale 1. Published figures of its state often leave the basis out; the formula here counts it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, bound_rank, groups, known_rank, named_weights
from memprof.optimizer import Group, MatrixOptimizer, adamw_footprint, fused_adamw_, step_tensor
from memprof.setting import setting

EIGH_ITEMSIZE = 4
"""bytes: eigenvectors are computed in fp32, in fp64 for fp64 gradients"""


def is_tall(shape: Sequence[int]) -> bool:
    return shape[0] >= shape[1]


def basis_shape(shape: Sequence[int], rank: int) -> tuple[int, int]:
    """(R, N) for a tall or square weight, (M, R) for a wide one."""
    return (rank, shape[1]) if is_tall(shape) else (shape[0], rank)


def low_rank_shape(shape: Sequence[int], rank: int) -> tuple[int, int]:
    """(M, R) for a tall or square weight, (R, N) for a wide one."""
    return (shape[0], rank) if is_tall(shape) else (rank, shape[1])


def gram(grad_MN: Tensor) -> Tensor:
    """G^T G of a tall gradient, G G^T of a wide one: (S, S), fp32 at least."""
    wide = grad_MN.to(torch.promote_types(grad_MN.dtype, torch.float32))
    return wide.T @ wide if is_tall(wide.shape) else wide @ wide.T


def with_sign_rule(vectors_SR: Tensor) -> Tensor:
    """The columns in place, each with the sign that makes its entry of largest magnitude positive."""
    largest_1R = vectors_SR.abs().argmax(dim=0, keepdim=True)
    return vectors_SR.mul_(vectors_SR.gather(0, largest_1R).sign_())


def top_subspace(grad_MN: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The top `rank` singular vectors of the shorter side, strongest first, as a basis; and whether they are valid.

    eigh raises on NaN and infinity, so such entries of the Gram matrix become zeros and the flag, a 0-d bool on the
    gradient's device, is False. Each large tensor is dropped as soon as the next exists: `refresh_bytes` counts them.
    """
    gram_SS = gram(grad_MN)
    finite = gram_SS.diagonal().sum().isfinite()  # the squared norm: no entry of G or of its Gram can hide from it
    vectors_SS = torch.linalg.eigh(gram_SS.nan_to_num_(0.0, 0.0, 0.0)).eigenvectors
    del gram_SS
    top_SR = vectors_SS[:, -rank:].flip(1)
    del vectors_SS
    with_sign_rule(top_SR)
    return (top_SR.T if is_tall(grad_MN.shape) else top_SR), finite


def project(grad_MN: Tensor, basis: Tensor, out: Tensor) -> Tensor:
    """The gradient's coordinates in the basis, into `out`."""
    return torch.mm(grad_MN, basis.T, out=out) if is_tall(grad_MN.shape) else torch.mm(basis.T, grad_MN, out=out)


def add_back_(weight_MN: Tensor, basis: Tensor, low_rank: Tensor, beta: float, alpha: float) -> None:
    """weight <- beta * weight + alpha * (low_rank taken back to full size), without a full-size temporary."""
    left, right = (low_rank, basis) if is_tall(weight_MN.shape) else (basis, low_rank)
    weight_MN.addmm_(left, right, beta=beta, alpha=alpha)


def torch_eps(eps: float, beta2: float, step: int) -> float:
    """The eps that makes torch's m_hat / (sqrt(v_hat) + eps) the authors' m_hat / ((sqrt(v) + eps) / sqrt(bias))."""
    return eps / math.sqrt(1 - beta2**step)


def scratch_bytes(weight: Weight, rank: int) -> int:
    """Low-rank gradient R * L + normalised update R * L, in the parameter dtype."""
    return 2 * rank * max(weight.shape) * weight.itemsize


def refresh_bytes(weight: Weight, rank: int) -> int:
    """The worst of three instants of `top_subspace`, w = 4 bytes (8 for fp64):

    copy of G (M, N) w, for bf16 and fp16 only + Gram (S, S) w
    Gram (S, S) w + eigenvalues (S,) w + eigenvectors (S, S) w + finite () bool
    top vectors (S, R) w + their magnitudes (S, R) w + argmax (R,) int64 + finite () bool

    LAPACK's and cuSOLVER's workspace inside eigh is not in it.
    """
    side, w = min(weight.shape), max(EIGH_ITEMSIZE, weight.itemsize)
    copy = w * weight.numel if weight.itemsize < w else 0
    return max(copy + w * side**2, w * (2 * side**2 + side) + 1, 2 * w * side * rank + 8 * rank + 1)


class GaLoreOptimizer(MatrixOptimizer):
    """GaLore on attention and MLP matrices, the authors' AdamW on the rest.

    state[p]: basis, exp_avg, exp_avg_sq, all in the parameter's dtype. Steps are counted in the parameter groups.
    """

    def __init__(self, model: nn.Module, method: GaLore) -> None:
        super().__init__(model, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.rank = known_rank(method.name, method.rank)
        self.update_gap, self.scale = method.update_gap, method.scale
        self.scratch_limit = method.scratch_limit(self.weight_of.values())

    def is_due(self, step: int) -> bool:
        return step % self.update_gap == 0

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        for p in params:  # before any scratch exists, so that the two never add up
            new = self._make_state(p)
            if new or refresh:
                self.refresh(p)
        step = step_tensor(group["step"] + 1, params[0].device)
        for batch in groups(params, self._scratch, self.scratch_limit):
            self._update_batch(batch, group, step)

    def refresh(self, p: Tensor) -> None:
        """A new basis from the present gradient; the old one stays where the gradient is not finite."""
        assert p.grad is not None
        basis = self.state[p]["basis"]
        top, finite = top_subspace(p.grad, self.rank)
        basis.copy_(torch.where(finite, top, basis))

    def _scratch(self, p: Tensor) -> int:
        return scratch_bytes(self.weight_of[p], self.rank)  # type: ignore[index]

    def _make_state(self, p: Tensor) -> bool:
        """Make the state of a weight that has none; whether it had none."""
        state = self.state[p]
        if state:
            return False
        state["basis"] = p.new_zeros(basis_shape(p.shape, self.rank))
        state["exp_avg"] = p.new_zeros(low_rank_shape(p.shape, self.rank))
        state["exp_avg_sq"] = p.new_zeros(low_rank_shape(p.shape, self.rank))
        return True

    def _update_batch(self, params: list[Tensor], group: Group, step: Tensor) -> None:
        """Project all, one fused AdamW on zeros (lr 1 leaves minus the normalised update), add all back."""
        states = [self.state[p] for p in params]
        scratch = params[0].new_zeros(2 * sum(s["exp_avg"].numel() for s in states))
        grads, updates = (like_views(half, [s["exp_avg"] for s in states]) for half in scratch.chunk(2))
        for p, state, grad in zip(params, states, grads, strict=True):
            assert p.grad is not None
            project(p.grad, state["basis"], out=grad)
        fused_adamw_(
            updates,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [step] * len(params),
            lr=1.0,
            betas=group["betas"],
            eps=torch_eps(group["eps"], group["betas"][1], group["step"] + 1),
            weight_decay=0.0,
        )
        keep = 1 - group["lr"] * group["weight_decay"]
        for p, state, update in zip(params, states, updates, strict=True):
            add_back_(p, state["basis"], update, beta=keep, alpha=group["lr"] * self.scale * keep)

    def update_others(self, params: list[Tensor], group: Group) -> None:
        eps = torch_eps(group["eps"], group["betas"][1], group["step"] + 1)
        super().update_others(params, {**group, "eps": eps, "weight_decay": 0.0})
        if params and group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])


def like_views(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Consecutive pieces of a flat buffer, in the shapes of `tensors`."""
    pieces = flat.split([t.numel() for t in tensors])
    return [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]


@dataclass(frozen=True, slots=True)
class GaLore(Method):
    """Low-rank gradients by projection on their top singular vectors, AdamW on them, full-rank weights."""

    name: ClassVar[str] = "galore"
    paper: ClassVar[str] = "arXiv:2403.03507"
    update_scalars: ClassVar[int] = 4  # the step count, fp32, that the fused kernel reads

    rank: int | None = setting(None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one subspace to the next (the authors' command line: 50)", least=1)
    scale: float = setting(0.25, "factor on the low-rank update", above=0)
    lr: float = setting(0.01, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment before its bias correction", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, after the update", least=0)

    def bind(self, weights: Iterable[Weight]) -> Self:
        return dataclasses.replace(self, rank=bound_rank(self.name, self.rank, weights))

    def prepare(self, model: nn.Module) -> GaLoreOptimizer:
        return GaLoreOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """No more scratch than the largest weight has bytes."""
        return max(weight.nbytes for weight in weights)

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: basis (R, S) + exp_avg (R, L) + exp_avg_sq (R, L), in the parameter dtype; no step tensor.

        Other weights: AdamW.
        """
        rank = known_rank(self.name, self.rank)
        if not weight.is_matrix:
            return adamw_footprint(weight)
        bound_rank(self.name, rank, [weight])
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=rank * (min(weight.shape) + 2 * max(weight.shape)) * weight.itemsize,
            transient=scratch_bytes(weight, rank),
            refresh=refresh_bytes(weight, rank),
        )
