"""What Fira and APOLLO share: Adam on a projected gradient, of which only the scale is taken; and the growth limiter.

Fira, arXiv:2410.01623, found that Adam scales a gradient and its projection by much the same factor,
s = |Adam's step in the subspace| / |projected gradient|, and that such scaled gradients need a limit to the growth of
their norm. APOLLO, arXiv:2412.05270, takes both.

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank. Whatever the side, the low-rank
gradient is kept as (L, R), so that the K matrices of one L that are updated together are one tensor (K, L, R).
A channel is one of the L rows or columns along the longer side.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from memprof.method import RankedMethod, Weight, known_rank, largest_nbytes
from memprof.methods.parts.batches import Batches, Costs
from memprof.methods.parts.fused_adamw import AdamWFields
from memprof.methods.parts.galore_inner import AdamWInner, torch_eps
from memprof.methods.parts.projection import basis_shape, is_tall, top_subspace
from memprof.optimizer import Group, KeepsDtypes, MatrixOptimizer, fused_adamw_, step_tensor

SMALL = 1e-8
"""added to norms that are divided by"""


def longer_first(matrix_MN: Tensor) -> Tensor:
    """A weight or its gradient seen as (L, S)."""
    return matrix_MN if is_tall(matrix_MN.shape) else matrix_MN.T


def factor_SR(basis: Tensor, shape: Sequence[int]) -> Tensor:
    """A basis, (R, N) of a tall weight or (M, R) of a wide one, seen as (S, R)."""
    return basis.T if is_tall(shape) else basis


def by_channel(scale_L: Tensor, shape: Sequence[int]) -> Tensor:
    """One number per channel, to be broadcast over (M, N); a single number stays one."""
    return scale_L.unsqueeze(1 if is_tall(shape) else 0)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def limited(norms_K: Tensor, limits: list[Tensor], growth: float) -> Tensor:
    """Factors (K,) that keep each norm at or below its limit, which then becomes `growth` times the norm they leave.

    The first limit is infinity. As in the code a norm of zero is kept too: after a gradient of zeros a matrix starts
    again from updates of norm 1e-8.
    """
    factors_K = torch.stack(limits).div_(norms_K).clamp_max_(1.0)
    least = norms_K.new_full((), growth * SMALL)
    torch._foreach_copy_(limits, torch.addcmul(least, norms_K, factors_K, value=growth).unbind())
    return factors_K


@dataclass(frozen=True, slots=True)
class ScalingMethod(RankedMethod):
    """A method whose matrices of one longer side are updated together."""

    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"
    update_scalars: ClassVar[int] = 4  # the step count, fp32, that the fused kernel reads

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def update_kind(self, weight: Weight) -> Hashable:
        """Their scratch is stacked by the longer side."""
        return max(weight.shape)


class ScalingSettings(AdamWFields, Costs, Protocol):
    """What the optimizer asks of a bound method."""

    @property
    def name(self) -> str: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def update_gap(self) -> int: ...


class ScalingOptimizer(KeepsDtypes, MatrixOptimizer):
    """Moments of the projected gradient and a limit to its norm for attention and MLP matrices, AdamW for the rest.

    state[p]: exp_avg and exp_avg_sq (L, R) in the parameter's dtype, limit () in fp32 at least, and the basis or
    what stands for it. AdamW is Hugging Face's, as in the authors' code: eps is not bias-corrected, and the weights
    decay after the update.
    """

    def __init__(self, model: nn.Module, method: ScalingSettings) -> None:
        super().__init__(model, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.rank, self.update_gap = known_rank(method.name, method.rank), method.update_gap
        self.inner = AdamWInner()
        self.batches = Batches(method, self.weight_of)

    def is_due(self, step: int) -> bool:
        return step % self.update_gap == 0

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        for p in params:  # before any scratch exists, so that the two never add up
            new = self._make_state(p)
            if new or refresh:
                self.refresh(p, new)
        step = step_tensor(group["step"] + 1, params[0].device)
        for batch in self.batches.of(params):
            self._update_batch(batch, group, step)
        if group["weight_decay"]:
            torch._foreach_mul_(list(params), 1 - group["lr"] * group["weight_decay"])

    @abstractmethod
    def refresh(self, p: Tensor, new: bool) -> None:
        """A new basis, or what stands for it; the state is there, and `new` if this is its first."""

    @abstractmethod
    def _update_batch(self, params: list[Tensor], group: Group, step: Tensor) -> None:
        """Update K matrices of one L."""

    def _make_state(self, p: Tensor) -> bool:
        """Make the state of a weight that has none; whether it had none."""
        state = self.state[p]
        if state:
            return False
        state["exp_avg"], state["exp_avg_sq"] = (p.new_zeros(max(p.shape), self.rank) for _ in range(2))
        state["limit"] = torch.full((), math.inf, dtype=wide_dtype(p.dtype), device=p.device)
        return True

    def _refresh_by_svd(self, p: Tensor) -> None:
        """The top singular vectors of the present gradient; the old ones stay where it is not finite."""
        assert p.grad is not None
        state = self.state[p]
        if "basis" not in state:
            state["basis"] = p.new_zeros(basis_shape(p.shape, self.rank))
        top, finite = top_subspace(p.grad, self.rank)
        state["basis"].copy_(torch.where(finite, top, state["basis"]))

    def _adam_(self, params: list[Tensor], stacked_2KLR: Tensor, group: Group, step: Tensor) -> None:
        """From zeros and the low-rank gradients: -m / (sqrt(v) + eps), without bias correction, and the gradients."""
        t, (beta1, beta2) = group["step"] + 1, group["betas"]
        states = [self.state[p] for p in params]
        updates_KLR, grads_KLR = stacked_2KLR.unbind()
        fused_adamw_(
            list(updates_KLR.unbind()),
            list(grads_KLR.unbind()),
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [step] * len(params),
            lr=(1 - beta1**t) / math.sqrt(1 - beta2**t),
            betas=group["betas"],
            eps=torch_eps(group["eps"], beta2, t),
            weight_decay=0.0,
        )

    def _limits(self, params: list[Tensor]) -> list[Tensor]:
        return [self.state[p]["limit"] for p in params]

    def update_others(self, params: list[Tensor], group: Group) -> None:
        self.inner.update_plain(self.state, params, group)


def step_size(group: Group) -> float:
    """The learning rate with Adam's two bias corrections."""
    t, (beta1, beta2) = group["step"] + 1, group["betas"]
    return float(group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t))


def state_bytes(weight: Weight, rank: int) -> int:
    """exp_avg and exp_avg_sq (L, R), in the parameter dtype, and limit (), fp32."""
    return 2 * rank * max(weight.shape) * weight.itemsize + max(4, weight.itemsize)
