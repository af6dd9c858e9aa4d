"""Adafactor: the second moment of a matrix kept as one number per row and one per column.

Shazeer and Stern 2018, arXiv:1804.04235; it follows the Adafactor of transformers (fairseq's), which GaLore's
experiments run with relative_step=False and scale_parameter=False: the defaults here. GaLore's table says "Adafactor
with first-order statistics": that is beta1=0.9.
Shapes: a weight is (O, I), out x in; a norm is (D,). States are fp32 whatever the parameter's dtype.

Paper and code: the paper steps by alpha_t = max(eps2, RMS(W)) * rho_t, which is scale_parameter=True with lr for rho_t;
its own schedule of rho_t (relative_step) is left to a learning-rate scheduler. With beta1 the code averages updates
that already carry the learning rate, so a schedule reaches old updates late; so does this one. Per weight,
transformers makes fp32 copies of parameter and gradient, a full-size g^2 and a full-size update, and keeps RMS(W), a
scalar it only looks at; here the fp32 update is the one full-size tensor, and below fp32 a copy of the parameter.
torch.optim.Adafactor keeps its factors in the parameter's dtype and asks the host twice per weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight
from memprof.optimizer import MethodOptimizer, with_grad
from memprof.setting import setting

FP32_BYTES = 4
SCALARS = 2
"""0-d tensors alive while an update is scaled: the step size and the clipping"""


def add_mean_square_(moment: Tensor, grad: Tensor, dim: int, weight: float) -> None:
    """moment += weight * mean of grad^2 over `dim`: through the norm, so that no grad^2 is ever stored."""
    norm = torch.linalg.vector_norm(grad, dim=dim, dtype=torch.float32)
    moment.addcmul_(norm, norm, value=weight / grad.shape[dim])


def factored_update(grad_OI: Tensor, row_O: Tensor, col_I: Tensor) -> Tensor:
    """grad / sqrt(V) in fp32, where V = row col^T / mean(row) is the paper's rank-one second moment."""
    factor_O1 = (row_O / row_O.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    update_OI = grad_OI.to(torch.float32, copy=True).mul_(factor_O1)  # one dtype an operation: a CPU copies else
    del factor_O1  # so that the two factors never stand beside the update together
    return update_OI.mul_(col_I.rsqrt().unsqueeze(-2))


def clip_factor(update: Tensor, threshold: float) -> Tensor:
    """1 / max(1, RMS(update) / threshold), on the device."""
    norm: Tensor = torch.linalg.vector_norm(update)
    return norm.div_(threshold * update.numel() ** 0.5).clamp_(min=1.0).reciprocal_()


def step_size(p: Tensor, lr: float, eps2: float, scale_parameter: bool) -> Tensor:
    """lr, or lr * max(eps2, RMS(p)), on the device."""
    if not scale_parameter:
        return torch.full((), lr, dtype=torch.float32, device=p.device)
    norm: Tensor = torch.linalg.vector_norm(p, dtype=torch.float32)
    return norm.div_(p.numel() ** 0.5).clamp_(min=eps2).mul_(lr)


class AdafactorOptimizer(MethodOptimizer):
    """Adafactor over parameters of any shape; its hyperparameters are the fields of `Adafactor`, all of them."""

    def __init__(self, params: Iterable[nn.Parameter], **hyperparameters: object) -> None:
        super().__init__(params, {**hyperparameters, "step": 0})

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                group["step"] += 1
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(p, group["beta1"] is not None) for p in params]
        weight = group["step"] ** group["decay_rate"]  # 1 - beta2_t
        # moment = beta2_t * moment + weight * (mean g^2 + eps1): the terms without g, for all weights at once
        moments = [state[key] for state in states for key in state if key != "exp_avg"]
        torch._foreach_mul_(moments, 1 - weight)
        torch._foreach_add_(moments, weight * group["eps1"])
        for p, state in zip(params, states, strict=True):
            self._update_one(p, state, group, weight)

    def _update_one(self, p: Tensor, state: dict[str, Tensor], group: dict[str, Any], weight: float) -> None:
        """One weight; a function of its own so that its update is freed before the next weight's is made."""
        grad = p.grad
        assert grad is not None
        if p.ndim > 1:
            row, col = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
            add_mean_square_(row, grad, -1, weight)
            add_mean_square_(col, grad, -2, weight)
            update = factored_update(grad, row, col)
        else:
            exp_avg_sq = state["exp_avg_sq"].addcmul_(grad, grad, value=weight)
            update = exp_avg_sq.rsqrt().mul_(grad.float())
        rate = step_size(p, group["lr"], group["eps2"], group["scale_parameter"])
        update.mul_(clip_factor(update, group["clip_threshold"]).mul_(rate))
        direction = update
        if group["beta1"] is not None:
            direction = state["exp_avg"].lerp_(update, 1 - group["beta1"])
        p32 = p.float()  # decay and update together in fp32: a bf16 weight is rounded once
        if group["weight_decay"]:
            direction = torch.addcmul(direction, p32, rate, value=group["weight_decay"], out=update)
        p.copy_(p32.sub_(direction))

    def _state(self, p: Tensor, momentum: bool) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            shapes = {"exp_avg": p.shape} if momentum else {}
            if p.ndim > 1:
                shapes |= {"exp_avg_sq_row": p.shape[:-1], "exp_avg_sq_col": p.shape[:-2] + p.shape[-1:]}
            else:
                shapes |= {"exp_avg_sq": p.shape}
            for key, shape in shapes.items():
                state[key] = torch.zeros(shape, dtype=torch.float32, device=p.device)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which rounds states to the parameter's dtype on the way in; these stay fp32."""
        super().load_state_dict(state_dict)
        ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(ids, params, strict=True):
            if index in state_dict["state"]:
                saved = state_dict["state"][index]
                self.state[p] = {key: value.to(p.device, torch.float32) for key, value in saved.items()}


@dataclass(frozen=True, slots=True)
class Adafactor(Method):
    """Adafactor as GaLore's experiments run it: a given learning rate, fp32 factors."""

    name: ClassVar[str] = "adafactor"
    paper: ClassVar[str] = "arXiv:1804.04235"

    lr: float = setting(1e-3, "learning rate (times RMS(W) with scale_parameter)", above=0)
    beta1: float | None = setting(None, "decay of the averaged updates; none keeps no first moment", least=0, below=1)
    decay_rate: float = setting(-0.8, "the second moment decays by 1 - t**decay_rate at step t", below=0)
    eps1: float = setting(1e-30, "added to the squared gradient", above=0)
    eps2: float = setting(1e-3, "least RMS(W) that scale_parameter multiplies by", least=0)
    clip_threshold: float = setting(1.0, "largest RMS of an update before the learning rate", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)
    scale_parameter: bool = setting(False, "step in proportion to RMS(W), as in the paper")

    def prepare(self, model: nn.Module) -> AdafactorOptimizer:
        return AdafactorOptimizer((p for p in model.parameters() if p.requires_grad), **self.hyperparameters())

    def formula(self, weight: Weight) -> Footprint:
        """State: [exp_avg (O, I) with beta1] + exp_avg_sq_row (O,) + exp_avg_sq_col (I,), fp32;
        of a norm: [exp_avg (D,) with beta1] + exp_avg_sq (D,), fp32.

        Transient: update (O, I) fp32 beside the larger of the row factor (O, 1) and the column factor (I,), fp32, or
        beside the step size () and the clipping () where those are larger; of a norm: update (D,) and the two scalars.
        Below fp32 also: update (O, I), fp32 copy of the weight (O, I) and step size ().
        """
        factors = [weight.numel // weight.shape[-1], weight.numel // weight.shape[-2]] if len(weight.shape) > 1 else []
        moments = sum(factors) if factors else weight.numel
        alive = weight.numel + max([*factors, SCALARS])
        if weight.itemsize < FP32_BYTES:
            alive = max(alive, 2 * weight.numel + 1)
        first_moment = 0 if self.beta1 is None else weight.numel
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=FP32_BYTES * (first_moment + moments),
            transient=FP32_BYTES * alive,
        )
