"""CAME: Adafactor with a first moment, each step of which is divided by how unsteady the updates have been there.

Luo et al. 2023, "CAME: Confidence-guided Adaptive Memory Efficient Optimization", arXiv:2307.02047; follows the
authors' came_pytorch 0.1.3. The update u is Adafactor's, with a constant beta2, and m its average. (u - m)^2, the
instability, is kept as Adafactor keeps g^2, one number a row and one a column, and m is divided by its root.
Shapes: a weight is (O, I), out x in; a norm is (D,); G weights of one shape are updated together. States are fp32
whatever the parameter's dtype.

Paper and code: the paper prints sums over rows and columns where the code takes means: V = r c^T / mean(r) is the same.
Only a matrix is divided by its instability; a vector steps by m. The code keeps RMS(W), which it only looks at, has no
default learning rate (its README's 2e-4 is the default here), asks the host for nothing, and makes fp32 copies of
gradients, g^2, the rank-one V, the update and (u - m)^2, each full-size; here one fp32 tensor is all of them in turn.
Below fp32 the code rounds the weight once for its decay and once for its update; here both happen in an fp32 copy.
The fp32 first moment is 4 bytes an element: in a bf16 run as much as both of AdamW's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, named_weights
from memprof.methods.parts.batches import Batches
from memprof.methods.parts.factored_moments import FP32_BYTES, factors, load_, load_product_, move_, raw_updates_
from memprof.optimizer import Group, KeepsDtypes, MethodOptimizer, with_grad
from memprof.setting import setting

State = dict[str, Tensor]


def new_state(p: Tensor) -> State:
    """exp_avg as the weight; of a matrix rows and columns of two moments, else one moment as the weight."""
    rows, cols = p.shape[:-1], p.shape[:-2] + p.shape[-1:]
    shapes = {"exp_avg": p.shape}
    if p.ndim > 1:
        shapes |= {"exp_avg_sq_row": rows, "exp_avg_sq_col": cols, "exp_avg_res_row": rows, "exp_avg_res_col": cols}
    else:
        shapes |= {"exp_avg_sq": p.shape}
    return {key: p.new_zeros(shape, dtype=torch.promote_types(p.dtype, torch.float32)) for key, shape in shapes.items()}


def decay_(states: Sequence[State], kind: str, beta: float, eps: float) -> None:
    """moment = beta * moment + (1 - beta) * eps: the terms without a square, for all weights at once."""
    moments = [state[key] for state in states for key in state if key.startswith(kind)]
    torch._foreach_mul_(moments, beta)
    torch._foreach_add_(moments, (1 - beta) * eps)


def update_together_(ps: Sequence[Tensor], states: Sequence[State], group: Group) -> None:
    """G weights of one shape, whose moments have decayed; a function of its own, so that its scratch ends with it."""
    beta1, beta2, beta3 = group["betas"]
    exp_avgs = [state["exp_avg"] for state in states]
    scratch = exp_avgs[0].new_empty(len(ps), *ps[0].shape)
    grads: list[Tensor] = [p.grad for p in ps]  # type: ignore[misc]
    average_(exp_avgs, scratch, raw_updates_(scratch, grads, states, 1 - beta2, group["clip_threshold"]), beta1)
    if ps[0].ndim > 1:
        scratch.mul_(scratch)  # (u - old m)^2, and u - m = beta1 (u - old m)
        rows, cols = ([state[key] for state in states] for key in ("exp_avg_res_row", "exp_avg_res_col"))
        row, col = factors(scratch, rows, cols, (1 - beta3) * beta1**2)
        load_product_(scratch, exp_avgs, col.unsqueeze(-2))
        del col
        factor = row.mul_(group["lr"]).unsqueeze(-1)
        del row
    else:
        load_(scratch, exp_avgs)
        factor = scratch.new_full((len(ps), *[1] * ps[0].ndim), group["lr"])
    move_(ps, scratch, factor, group["lr"] * group["weight_decay"])


def average_(exp_avgs: list[Tensor], scratch: Tensor, factor: Tensor, beta1: float) -> None:
    """m <- beta1 m + (1 - beta1) u, where u is scratch * factor; what is left in the scratch is u - old m or its
    negative."""
    if len(exp_avgs) == 1:
        torch.addcmul(exp_avgs[0], scratch[0], factor[0], value=-1, out=scratch[0])
        exp_avgs[0].sub_(scratch[0], alpha=1 - beta1)
        return
    differences = list(scratch.mul_(factor).unbind())
    torch._foreach_sub_(differences, exp_avgs)
    torch._foreach_add_(exp_avgs, differences, alpha=1 - beta1)


class CAMEOptimizer(KeepsDtypes, MethodOptimizer):
    """CAME over parameters of any shape, those of one shape together."""

    def __init__(self, model: nn.Module, method: CAME) -> None:
        pairs = [(weight, p) for weight, p in named_weights(model) if p.requires_grad]
        self.batches = Batches(method, {p: weight for weight, p in pairs})
        super().__init__([p for _, p in pairs], method.hyperparameters())

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                self._update(params, group)

    def _update(self, params: list[Tensor], group: Group) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = new_state(p)
        states = [self.state[p] for p in params]
        decay_(states, "exp_avg_sq", group["betas"][1], group["eps1"])
        if any(p.ndim > 1 for p in params):
            decay_(states, "exp_avg_res", group["betas"][2], group["eps2"])
        for batch in self.batches.of(params):
            update_together_(batch, [self.state[p] for p in batch], group)


@dataclass(frozen=True, slots=True)
class CAME(Method):
    """Confidence-guided adaptive memory-efficient optimisation, as the authors' code does it."""

    name: ClassVar[str] = "came"
    paper: ClassVar[str] = "arXiv:2307.02047"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(2e-4, "learning rate", above=0, papers="BERT, T5: 2e-4 to 6e-4")
    betas: tuple[float, float, float] = setting(
        (0.9, 0.999, 0.9999),
        "decay of the averaged updates, of g^2 and of the instability",
        least=0,
        below=1,
        papers="0.9/0.999/0.9999",
    )
    eps1: float = setting(1e-30, "added to the squared gradient", above=0, papers="1e-30")
    eps2: float = setting(1e-16, "added to the squared instability", above=0, papers="1e-16")
    clip_threshold: float = setting(1.0, "largest RMS of an update before it is averaged", above=0, papers="1")
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)

    def prepare(self, model: nn.Module) -> CAMEOptimizer:
        return CAMEOptimizer(model, self)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """Weights of one shape together take no more scratch than the weight that needs most takes alone."""
        return max(self.formula(weight).transient for weight in weights)

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.shape

    def formula(self, weight: Weight) -> Footprint:
        """State: exp_avg (O, I) + exp_avg_sq_row (O,) + exp_avg_sq_col (I,) + exp_avg_res_row (O,) + exp_avg_res_col
        (I,), fp32; of a norm: exp_avg (D,) + exp_avg_sq (D,), fp32.

        Transient: squares, then update (O, I), beside factors (O,) and (I,), or beside the rows' factor (O,), their
        norms (O,) and its own (), fp32; of a norm: update (D,) and its factor (D,). Below fp32 at least: update (O, I),
        fp32 copy of the weight (O, I) and factor (O,), of a norm ().
        """
        n = weight.numel
        if len(weight.shape) > 1:
            rows, cols = n // weight.shape[-1], n // weight.shape[-2]
            moments, alive = 2 * (rows + cols), n + rows + max(cols, rows + 1)
        else:
            rows, moments, alive = 1, n, 2 * n
        if weight.itemsize < FP32_BYTES:
            alive = max(alive, 2 * n + rows)
        width = max(FP32_BYTES, weight.itemsize)
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=width * (n + moments),
            transient=width * alive,
        )
