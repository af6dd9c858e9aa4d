"""What the methods' optimizers share: fused AdamW, and a step that treats matrices apart and may do periodic work."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Weight, named_weights

Group = dict[str, Any]


def fused_adamw_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """One AdamW step on lists of tensors of one dtype, in place and without temporaries: torch's own kernel.

    `steps` are fp32 scalars on the parameters' device, this step counted already. Works on meta tensors, which
    torch.optim.AdamW(fused=True) refuses.
    """
    if params:
        torch._fused_adamw_(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )


def adamw_footprint(weight: Weight) -> Footprint:
    """Parameter, gradient, exp_avg and exp_avg_sq, each of the weight's shape and dtype."""
    return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=2 * weight.nbytes)


def with_grad(group: Group) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [p for p in group["params"] if p.grad is not None]


class MethodOptimizer(torch.optim.Optimizer):
    """The frame of every method's step: PyTorch's optional closure, then `update` without gradient tracking."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    @abstractmethod
    def update(self) -> None:
        """Update every weight that has a gradient."""


class Periodic:
    """Periodic work on request. `request_refresh()` asks for it, `take_request()` in the next step answers."""

    _refresh_requested = False

    def request_refresh(self) -> None:
        """Make the next step do the periodic work, whatever the schedule says."""
        self._refresh_requested = True

    def take_request(self) -> bool:
        asked, self._refresh_requested = self._refresh_requested, False
        return asked


class MatrixOptimizer(Periodic, MethodOptimizer):
    """AdamW for embeddings, head and norms; a method's own update for attention and MLP matrices.

    Steps are counted from 0 in the parameter groups. A step refreshes when `is_due(step)` says so or when
    `request_refresh()` was called before it.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        pairs = named_weights(model)
        self.weight_of = {parameter: weight for weight, parameter in pairs}
        matrices = [parameter for weight, parameter in pairs if weight.is_matrix]
        others = [parameter for weight, parameter in pairs if not weight.is_matrix]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__([{"params": others, "matrices": False}, {"params": matrices, "matrices": True}], defaults)

    def update(self) -> None:
        asked = self.take_request()
        for group in self.param_groups:
            params = with_grad(group)
            if not group["matrices"]:
                self.update_others(params, group)
            elif params:
                self.update_matrices(params, group, asked or self.is_due(group["step"]))
            group["step"] += 1

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether the schedule refreshes at `step` (the first step is 0)."""

    @abstractmethod
    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        """Update attention and MLP matrices; `group["step"]` is the number of steps before this one."""

    def update_others(self, params: list[Tensor], group: Group) -> None:
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        fused_adamw_(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [step_tensor(group["step"] + 1, params[0].device)] * len(params) if params else [],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


def step_tensor(step: int, device: torch.device) -> Tensor:
    """The step count as the fused kernel wants it: made by a fill, so that the host never waits."""
    return torch.full((), float(step), dtype=torch.float32, device=device)
