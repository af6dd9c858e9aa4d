"""SGD with momentum, on every weight.

Polyak 1964's heavy ball as Sutskever et al. 2013 ("On the importance of initialization and momentum in deep learning",
ICML) write it for deep learning, in torch's form: it is torch.optim.SGD(fused=True), bit for bit and byte for byte,
but in bf16 and fp16 on a CPU. There torch's kernel, up to 2.13, leaves most weights where they are (pytorch issue
191763), and a few calls that work in place stand in for it; they round after each.

torch's momentum sums gradients, m = momentum * m + g, and multiplies by the learning rate as it steps, W -= lr * m;
the papers put the learning rate inside m, which differs once it changes. Weight decay is L2, added to the gradient.
torch's dampening, which weakens every gradient but the first, is left out: no paper here uses it. Its momentum begins
as a copy of the first gradient; ours as zeros, of which the first step makes the same.
In bf16 the steps of norms vanish: lr * m is far below half an ulp of 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.method import Footprint, Method, Weight
from memprof.optimizer import MethodOptimizer, with_grad
from memprof.setting import setting


def has_kernel(p: Tensor) -> bool:
    """Whether torch's fused kernel does the step: not on meta, nor right below fp32 on a CPU (torch 2.13)."""
    return not (p.is_meta or (p.device.type == "cpu" and p.element_size() < 4))


def sgd_(
    params: list[Tensor],
    grads: list[Tensor],
    moments: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """One SGD step on lists of tensors, in place and without temporaries; no `moments` where momentum is 0."""
    if moments:
        torch._foreach_mul_(moments, momentum)
        torch._foreach_add_(moments, grads)
        if weight_decay:
            torch._foreach_add_(moments, params, alpha=weight_decay)
    if moments and not nesterov:
        torch._foreach_add_(params, moments, alpha=-lr)
        return
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    torch._foreach_add_(params, grads, alpha=-lr)
    if moments:
        torch._foreach_add_(params, moments, alpha=-lr * momentum)


def fused_sgd_(
    params: list[Tensor],
    grads: list[Tensor],
    moments: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """The same on lists of tensors of one dtype, in one call of torch's own kernel."""
    torch._fused_sgd_(
        params,
        grads,
        moments,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
    )


class FusedSGD(MethodOptimizer):
    """torch.optim.SGD(fused=True) that also accepts meta tensors, and is right below fp32 on a CPU."""

    takes_groups = True

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if not params:
                continue
            kernel = fused_sgd_ if all(map(has_kernel, params)) else sgd_
            kernel(
                params,
                [p.grad for p in params],  # type: ignore[misc]
                [self._moment(p) for p in params] if group["momentum"] else [],
                lr=group["lr"],
                momentum=group["momentum"],
                nesterov=group["nesterov"],
                weight_decay=group["weight_decay"],
            )

    def _moment(self, p: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state["momentum_buffer"]


@dataclass(frozen=True, slots=True)
class SGD(Method):
    """SGD, heavy-ball or Nesterov momentum."""

    name: ClassVar[str] = "sgd"
    paper: ClassVar[str] = "Sutskever et al., ICML 2013"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(0.1, "learning rate", above=0)
    momentum: float = setting(0.9, "decay of the sum of gradients; 0 keeps none", least=0, below=1)
    nesterov: bool = setting(False, "step as if the momentum had been applied once more")
    weight_decay: float = setting(0.0, "L2 penalty: added to the gradient", least=0)

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if self.nesterov and not self.momentum:
            raise MemprofError("sgd: nesterov=true needs a momentum above 0")

    def prepare(self, model: nn.Module) -> FusedSGD:
        return FusedSGD(
            (p for p in model.parameters() if p.requires_grad),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )

    def formula(self, weight: Weight) -> Footprint:
        """momentum_buffer (out, in) in the parameter dtype; nothing where momentum is 0. No scratch, no step count."""
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=weight.nbytes if self.momentum else 0,
        )
