"""torch's fused AdamW as this package's optimizer: of `adamw`, and of what the methods with adapters train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from memprof.optimizer import KeepsDtypes, MethodOptimizer, fused_adamw_, with_grad


class AdamWFields(Protocol):
    """A method with AdamW's hyperparameters."""

    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


class FusedAdamW(KeepsDtypes, MethodOptimizer):
    """torch.optim.AdamW(fused=True) that also accepts meta tensors. One kernel call a step, no temporaries."""

    takes_groups = True
    kernel = staticmethod(fused_adamw_)

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @classmethod
    def of(cls, model: nn.Module, method: AdamWFields, **more: Any) -> Self:
        """Over what `model` trains, with the hyperparameters of `method` and what else a subclass asks for."""
        params = (p for p in model.parameters() if p.requires_grad)
        return cls(params, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay, **more)

    def update(self) -> None:
        for group in self.param_groups:
            self.update_group(group, group["lr"])

    def update_group(self, group: dict[str, Any], lr: float) -> None:
        """One AdamW update of a group, at a learning rate that may differ from the group's own."""
        params = with_grad(group)
        states = [self._state(p) for p in params]
        steps = [state["step"] for state in states]
        if params:
            torch._foreach_add_(steps, 1)
        self.kernel(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            steps,
            lr=lr,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = self.new_moment(p), self.new_moment(p)
        return state

    def new_moment(self, p: Tensor) -> Tensor:
        return torch.zeros_like(p)
