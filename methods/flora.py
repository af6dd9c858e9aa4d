"""Flora: Adafactor whose first moment is compressed by a random projection that is drawn anew from its seed.

Hao et al. 2024, "Flora: Low-Rank Adapters Are Secretly Gradient Compressors", arXiv:2402.03293. Follows the authors'
flora_opt 0.0.3 (Flora for PyTorch). Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the
rank; P is the projector, (S, R). The moment is kept as (L, R). States are fp32 (fp64 for an fp64 weight).

    u = Adafactor's G / sqrt(V); step with (1 - beta1) u + beta1 m P^T; m = beta1 m + (1 - beta1) u P
    and every kappa steps m = m P^T P' goes over to the next projector P', before u is taken in

As in the code, whatever its role, every matrix is compressed that has R on its shorter side and whose sides differ
fourfold at most ("rule out embeddings"); other weights keep a first moment of full size.

Where paper, code and this differ:
* the paper and tables after it (GaLore's, APOLLO's) speak of Flora as Adam with compressed moments, 2 n r + 1
  elements for an (m, n) weight. The code compresses the first moment alone; the second one is Adafactor's, m + n;
* the code has no default learning rate; scale_parameter is on, so the rate multiplies RMS(W);
* the code makes four full-size temporaries in fp32 (copies of gradient and weight, the update, the raw update) and
  takes m back to full size to change its projector; here the update is the only one, below fp32 also a copy of the
  weight, and m goes over by the (R, R) matrix P^T P';
* the code keeps RMS(W), which it only looks at; its quantised states and relative_step are left out.
The compression of accumulated gradients, the paper's other half, is not in the authors' optimizer but in their
FloraAccelerator, and not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, RankedMethod, Weight, bound_rank, known_rank, named_weights
from memprof.methods.parts.factored_moments import (
    SCALARS,
    clip_factor,
    decay_moments_,
    new_state,
    normalised,
    step_size,
)
from memprof.methods.parts.projection import is_tall, wide_itemsize
from memprof.methods.parts.random_projection import draw_, integers, next_seed
from memprof.optimizer import Group, KeepsDtypes, MethodOptimizer, Periodic, with_grad
from memprof.setting import setting

MOST_ASPECT = 4


def is_compressed(shape: Sequence[int], rank: int) -> bool:
    return len(shape) == 2 and rank <= min(shape) and max(shape) <= MOST_ASPECT * min(shape)


def projector(p: Tensor, seed: int, rank: int) -> Tensor:
    """P (S, R) of a seed, fp32 (fp64 for an fp64 weight).

    As in the code a seed stands for two numbers, one for wide and one for tall weights.
    """
    tall = is_tall(p.shape)
    shape = (p.shape[1], rank) if tall else (rank, p.shape[0])
    empty = torch.empty(shape, dtype=torch.promote_types(p.dtype, torch.float32), device=p.device)
    drawn = draw_(empty, integers(seed, 2)[tall], rank)
    return drawn if tall else drawn.T


def average_compressed_(update_MN: Tensor, p: Tensor, state: dict[str, Any], beta1: float, resample: bool) -> None:
    """Average the update with the compressed moment in place, and take the raw update into the moment."""
    exp_avg_LR, seed = state["exp_avg"], state["seed"]
    update_LS, rank = (update_MN if is_tall(p.shape) else update_MN.T), exp_avg_LR.shape[1]
    old_SR = projector(p, seed, rank)
    new_SR = old_SR
    if resample:
        state["seed"] = next_seed(seed)
        new_SR = projector(p, state["seed"], rank)
    raw_LR = update_LS @ new_SR
    update_LS.addmm_(exp_avg_LR, old_SR.T, beta=1 - beta1, alpha=beta1)
    if resample:
        exp_avg_LR.copy_(exp_avg_LR @ (old_SR.T @ new_SR))
    exp_avg_LR.lerp_(raw_LR, 1 - beta1)


class FloraOptimizer(KeepsDtypes, Periodic, MethodOptimizer):
    """Flora over all weights, in the order of the model; its hyperparameters are the fields of `Flora`.

    state[p]: exp_avg, of a compressed matrix (L, R) beside its projector's seed, an integer; exp_avg_sq, of a matrix
    as exp_avg_sq_row and exp_avg_sq_col. Steps are counted in the parameter group.
    """

    def __init__(self, model: nn.Module, method: Flora) -> None:
        self.rank, self.update_gap = known_rank(method.name, method.rank), method.update_gap
        params = [p for p in model.parameters() if p.requires_grad]
        self.place = {p: i for i, p in enumerate(params, start=1)}
        super().__init__(params, {**method.hyperparameters(), "step": 0})

    def update(self) -> None:
        asked = self.take_request()
        for group in self.param_groups:
            group["step"] += 1
            params = with_grad(group)
            if params:
                states = [self._state(p, group["beta1"] is not None) for p in params]
                decay_moments_(states, group)
                for p, state in zip(params, states, strict=True):
                    self._update(p, state, group, asked or group["step"] % self.update_gap == 0)

    def _update(self, p: Tensor, state: dict[str, Any], group: Group, resample: bool) -> None:
        """One weight; a function of its own so that its update is freed before the next weight's is made."""
        assert p.grad is not None
        update = normalised(p.grad, state, group)
        if "seed" in state:
            average_compressed_(update, p, state, group["beta1"], resample)
        elif group["beta1"] is not None:
            update.copy_(state["exp_avg"].lerp_(update, 1 - group["beta1"]))
        rate = step_size(p, group["lr"], group["eps2"], group["scale_parameter"])
        update.mul_(clip_factor(update, group["clip_threshold"]).mul_(rate))
        p32 = p.to(update.dtype)  # decay and update together in fp32: a bf16 weight is rounded once
        if group["weight_decay"]:
            update.addcmul_(p32, rate, value=group["weight_decay"])
        p.copy_(p32.sub_(update))

    def _state(self, p: Tensor, momentum: bool) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if not state:
            state.update(new_state(p, p.shape, momentum=False))
            compressed = momentum and is_compressed(p.shape, self.rank)
            if compressed:
                state["seed"] = self.place[p]  # type: ignore[index]
            if momentum:
                shape = (max(p.shape), self.rank) if compressed else p.shape
                state["exp_avg"] = p.new_zeros(shape, dtype=torch.promote_types(p.dtype, torch.float32))
        return state


@dataclass(frozen=True, slots=True)
class Flora(RankedMethod):
    """Adafactor with a first moment that is compressed by a random projection."""

    name: ClassVar[str] = "flora"
    paper: ClassVar[str] = "arXiv:2402.03293"
    treats: ClassVar[str] = "matrices whose sides differ fourfold at most; the rest is trained by Adafactor"

    rank: int | None = setting(None, "rank of the first moment; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(1000, "steps from one projector to the next (kappa)", least=1, papers="1000")
    lr: float = setting(0.01, "learning rate (times RMS(W) with scale_parameter)", above=0)
    beta1: float | None = setting(
        0.9, "decay of the averaged updates; none is Adafactor", least=0, below=1, papers="0.9; its code: none"
    )
    decay_rate: float = setting(-0.8, "the second moment decays by 1 - t**decay_rate at step t", below=0, papers="-0.8")
    eps1: float = setting(1e-30, "added to the squared gradient", above=0, papers="1e-30")
    eps2: float = setting(1e-3, "least RMS(W) that scale_parameter multiplies by", least=0, papers="1e-3")
    clip_threshold: float = setting(1.0, "largest RMS of an update before the learning rate", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)
    scale_parameter: bool = setting(True, "step in proportion to RMS(W)", papers="its code: true")

    def prepare(self, model: nn.Module) -> FloraOptimizer:
        return FloraOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return () if self.beta1 is None else range(self.update_gap - 1, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """State: [exp_avg (L, R), (M, N) where it is not compressed, with beta1] + exp_avg_sq_row (M,)
        + exp_avg_sq_col (N,), fp32; of a norm: [exp_avg (D,) with beta1] + exp_avg_sq (D,), fp32. The seed is a number
        of the host's.

        Transient, the largest of, beside update (M, N) fp32: the larger of the row factor (M, 1) and the column factor
        (N,); P (S, R) + projected update (L, R); the step size () and the clipping (); below fp32, a copy of the weight
        (M, N) and the step size (). Refresh: P and P' (S, R) + projected update (L, R) + P^T P' (R, R) + the moment in
        P' (L, R). All fp32, of an fp64 weight fp64.
        """
        rank = known_rank(self.name, self.rank)
        if weight.is_matrix:
            bound_rank(self.name, rank, [weight])
        compressed = self.beta1 is not None and is_compressed(weight.shape, rank)
        factors = [weight.numel // weight.shape[-1], weight.numel // weight.shape[-2]] if len(weight.shape) > 1 else []
        first_moment = 0 if self.beta1 is None else rank * max(weight.shape) if compressed else weight.numel
        beside = max([*factors, SCALARS])
        resampling = 0
        if compressed:
            short, long = min(weight.shape), max(weight.shape)
            beside = max(beside, rank * (short + long))
            resampling = weight.numel + rank * (2 * short + 2 * long + rank)
        alive, width = weight.numel + beside, wide_itemsize(weight.itemsize)
        if weight.itemsize < width:
            alive = max(alive, 2 * weight.numel + 1)
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=width * (first_moment + (sum(factors) if factors else weight.numel)),
            transient=width * alive,
            refresh=width * resampling,
        )
