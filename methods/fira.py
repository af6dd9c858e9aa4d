"""Fira: GaLore's update, and beside it the rest of the gradient, scaled as Adam scales the projected part.

Chen et al. 2024, "Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint?", arXiv:2410.01623.
Follows the authors' fira 1.0.2 (FiraAdamW, proj_type "std"). Attention and MLP matrices are treated; embedding, head
and norms take the authors' AdamW, Hugging Face's. Shapes: see gradient_scaling.py; P is the basis, (S, R), GaLore's.

    low = G P (of G seen as (L, S)), m and v its moments, n = m / (sqrt(v) + eps), s = |n| / |low| by channel,
    W = W - lr * bias correction * (scale * n P^T + limited(s * (G - scale * low P^T)))

Where paper, code and this differ:
* `project_back` multiplies by the scale (the code's alpha), so the code's rest of the gradient is G - alpha * low P^T
  where the paper's is G - low P^T. The two are one at alpha 1, the code's default; the paper trains with 0.25. The
  code's is followed: its published runs are made of it;
* the code makes four or more full-size temporaries; here none is made. What is added to W is, in exact arithmetic,
  s * G + scale * (n - s * low) P^T. The norm that is limited comes from Pythagoras,
  |G - scale * low P^T|^2 = |G|^2 - (2 scale - scale^2) |low|^2 by channel, with P's columns orthonormal: its relative
  error is that of fp32, 6e-8, over the share of the gradient's energy that the subspace leaves out, and in bf16,
  whose low-rank gradients are rounded, 4e-3 over that share and over the root of the number of entries;
* the code keeps the last norm in the parameter's dtype, where bf16 cannot tell 1.01 from 1.008; here the limit made of
  it is kept, in fp32;
* signs and precision of the singular vectors: see galore.py.

The paper counts 2 n r + m r + 1 elements, as the formula does. Pitfall: one gradient of zeros lets the limiter hold
back the rest of a matrix's gradient for 2000 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import BASIS, Footprint, Weight, bound_rank, known_rank, named_weights
from memprof.methods.parts.gradient_scaling import (
    SMALL,
    ScalingMethod,
    ScalingOptimizer,
    by_channel,
    factor_SR,
    limited,
    longer_first,
    state_bytes,
    step_size,
    wide_dtype,
)
from memprof.methods.parts.projection import is_tall, refresh_bytes
from memprof.optimizer import Group, adamw_footprint
from memprof.setting import setting


class FiraOptimizer(ScalingOptimizer):
    """Fira on attention and MLP matrices, the authors' AdamW on the rest. state[p] also has the basis."""

    def __init__(self, model: nn.Module, method: Fira) -> None:
        super().__init__(model, method)
        self.scale, self.growth = method.scale, method.growth

    def refresh(self, p: Tensor, new: bool) -> None:
        self._refresh_by_svd(p)

    def _update_batch(self, params: list[Tensor], group: Group, step: Tensor) -> None:
        stacked_2KLR = params[0].new_zeros(2, len(params), max(params[0].shape), self.rank)
        minus_steps_KLR, lows_KLR = stacked_2KLR.unbind()
        for p, low_LR in zip(params, lows_KLR.unbind(), strict=True):
            assert p.grad is not None
            torch.mm(longer_first(p.grad), factor_SR(self.state[p]["basis"], p.shape), out=low_LR)
        self._adam_(params, stacked_2KLR, group, step)
        scale_KL, rest_K = self._scales_and_rests(params, stacked_2KLR)
        scale_KL.mul_(limited(rest_K, self._limits(params), self.growth).unsqueeze(1))
        scale_KL = scale_KL.to(params[0].dtype)
        differences_KLR = minus_steps_KLR.addcmul_(lows_KLR, scale_KL.unsqueeze(2))  # s * low - n
        size = step_size(group)
        for p, scale_L, difference_LR in zip(params, scale_KL.unbind(), differences_KLR.unbind(), strict=True):
            assert p.grad is not None
            p.addcmul_(p.grad, by_channel(scale_L, p.shape), value=-size)
            basis_SR = factor_SR(self.state[p]["basis"], p.shape)
            longer_first(p).addmm_(difference_LR, basis_SR.T, alpha=size * self.scale)

    def _scales_and_rests(self, params: list[Tensor], stacked_2KLR: Tensor) -> tuple[Tensor, Tensor]:
        """s by channel (K, L) and the norm of what the subspaces leave out, scaled by it, (K,): in fp32 at least."""
        dtype = wide_dtype(stacked_2KLR.dtype)
        norms_2KL = torch.linalg.vector_norm(stacked_2KLR, dim=3, dtype=dtype)
        steps_KL, lows_KL = norms_2KL.unbind()
        scale_KL = torch.add(lows_KL, SMALL)
        torch.div(steps_KL, scale_KL, out=scale_KL)
        for p, norm_L in zip(params, steps_KL.unbind(), strict=True):  # in place of the steps' norms
            torch.linalg.vector_norm(p.grad, dim=1 if is_tall(p.shape) else 0, dtype=dtype, out=norm_L)
        whole_K, inside_K = torch.linalg.vector_norm(norms_2KL.mul_(scale_KL), dim=2).square_().unbind()
        rest_K = whole_K.sub_(inside_K, alpha=2 * self.scale - self.scale**2)
        return scale_KL, rest_K.clamp_min_(0.0).sqrt_()


@dataclass(frozen=True, slots=True)
class Fira(ScalingMethod):
    """GaLore that also uses what its subspace leaves out, scaled by channel as Adam scales what is inside."""

    name: ClassVar[str] = "fira"
    paper: ClassVar[str] = "arXiv:2410.01623"

    rank: int | None = setting(
        None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1, papers="a quarter"
    )
    update_gap: int = setting(200, "steps from one subspace to the next", least=1, papers="200")
    scale: float = setting(
        1.0, "factor on the low-rank update, and on what counts as inside", above=0, papers="0.25; 1b: 0.0625"
    )
    growth: float = setting(1.01, "most that the norm of the scaled rest may grow by in a step", least=1, papers="1.01")
    lr: float = setting(1e-3, "learning rate", above=0, papers="0.01")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment before its bias correction", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, after the update", least=0)

    def prepare(self, model: nn.Module) -> FiraOptimizer:
        return FiraOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: basis (S, R) + exp_avg (L, R) + exp_avg_sq (L, R), in the parameter dtype, + limit () fp32.

        Other weights: AdamW.

        Transient, w = 4 bytes (8 for fp64): Adam's step (L, R) + low-rank gradient (L, R) in the parameter dtype
        + norms (2, L) w + s (L,) w + the norms' norms (2,) w.
        """
        rank = known_rank(self.name, self.rank)
        if not weight.is_matrix:
            return adamw_footprint(weight)
        bound_rank(self.name, rank, [weight])
        long, e, w = max(weight.shape), weight.itemsize, max(4, weight.itemsize)
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=rank * min(weight.shape) * e + state_bytes(weight, rank),
            parts={BASIS: rank * min(weight.shape) * e},
            transient=2 * rank * long * e + (3 * long + 2) * w,
            refresh=refresh_bytes(weight, rank),
        )
