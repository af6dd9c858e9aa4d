"""Lion: every weight moves by the learning rate, in the direction of a sign; one moment.

Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675; follows lion_pytorch 0.2.5.
The sign is that of the moment and the gradient mixed by beta1, and the moment itself decays by beta2. There is no
bias correction and no eps. An element whose mixed moment is exactly zero stays.

Paper and code: the paper decays with the update, W -= lr * (sign + weight_decay * W); lion_pytorch, and so ours, before
it, W = (1 - lr * weight_decay) * W - lr * sign: the same in exact numbers, but in bf16 a product with 1 - 1e-3 or
closer to 1 rounds back to W. lion_pytorch mixes through two full-size temporaries a weight, its foreach version through
a copy of every moment at once; here one temporary of the weight's size holds the mix and then its sign, for weights
that together take no more than the largest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, groups, largest_nbytes
from memprof.optimizer import Group, MethodOptimizer, with_grad
from memprof.setting import setting


def signs(moments: list[Tensor], grads: list[Tensor], beta1: float) -> list[Tensor]:
    """sign(beta1 * m + (1 - beta1) * g), one temporary a weight."""
    mixed = torch._foreach_lerp(moments, grads, 1 - beta1)
    torch._foreach_sign_(mixed)
    return list(mixed)


class LionOptimizer(MethodOptimizer):
    """Lion over parameters of any shape, in groups whose signs take `scratch_limit` bytes at most."""

    takes_groups = True

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        self.scratch_limit = max(p.nbytes for group in self.param_groups for p in group["params"])

    def update(self) -> None:
        for group in self.param_groups:
            for params in groups(with_grad(group), lambda p: p.nbytes, self.scratch_limit):
                self._update(params, group)

    def _update(self, params: list[Tensor], group: Group) -> None:
        """A function of its own, so that the signs are gone before the next group's."""
        beta1, beta2 = group["betas"]
        moments = [self._moment(p) for p in params]
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, signs(moments, grads, beta1), alpha=-group["lr"])
        torch._foreach_lerp_(moments, grads, 1 - beta2)

    def _moment(self, p: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["exp_avg"] = torch.zeros_like(p)
        return state["exp_avg"]


@dataclass(frozen=True, slots=True)
class Lion(Method):
    """Lion: the sign of an interpolated moment, and decoupled weight decay."""

    name: ClassVar[str] = "lion"
    paper: ClassVar[str] = "arXiv:2302.06675"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(1e-4, "how far every element moves", above=0, papers="3 to 10 times below AdamW's")
    betas: tuple[float, float] = setting(
        (0.9, 0.99), "weight of the moment in the sign, and its own decay", least=0, below=1,
        papers="0.95/0.98 for language models",
    )  # fmt: skip
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0, papers="3 to 10 times AdamW's")

    def prepare(self, model: nn.Module) -> LionOptimizer:
        params = (p for p in model.parameters() if p.requires_grad)
        return LionOptimizer(params, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def formula(self, weight: Weight) -> Footprint:
        """State: exp_avg (out, in). Transient: its mix with the gradient, then the sign of that, (out, in). All in the
        parameter dtype.
        """
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=weight.nbytes,
            transient=weight.nbytes,
        )
