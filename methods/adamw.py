"""AdamW: Adam with decoupled weight decay, on every weight. The baseline of every paper.

Loshchilov and Hutter 2017, arXiv:1711.05101; it is torch.optim.AdamW(fused=True), bit for bit and byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight
from memprof.optimizer import MethodOptimizer, fused_adamw_, with_grad
from memprof.setting import setting

STEP_BYTES = 4
"""torch keeps each tensor's step count as an fp32 scalar beside its moments"""


class FusedAdamW(MethodOptimizer):
    """torch.optim.AdamW(fused=True) that also accepts meta tensors. One kernel call a step, no temporaries."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

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
        fused_adamw_(
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
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


@dataclass(frozen=True, slots=True)
class AdamW(Method):
    """Full-rank AdamW with moments in the parameter's dtype."""

    name: ClassVar[str] = "adamw"
    paper: ClassVar[str] = "arXiv:1711.05101"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(1e-3, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.01, "decoupled weight decay", least=0)

    def prepare(self, model: nn.Module) -> FusedAdamW:
        return FusedAdamW(
            (p for p in model.parameters() if p.requires_grad),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def formula(self, weight: Weight) -> Footprint:
        """exp_avg (out, in) + exp_avg_sq (out, in) in the parameter dtype + step () fp32."""
        return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=2 * weight.nbytes + STEP_BYTES)
