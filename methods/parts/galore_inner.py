"""What runs inside GaLore's subspace: the contract, and AdamW; the two with smaller states are in galore_compact.py.

The same optimizer updates the weights that are not projected. AdamW is Hugging Face's, as in galore_torch 1.0: eps is
not bias-corrected, and the weights decay after the update.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from memprof.method import Footprint, RankedMethod, Weight, largest_nbytes
from memprof.optimizer import Group, adamw_footprint, fused_adamw_, step_tensor

State = dict[str, Tensor]


class Inner(ABC):
    """An optimizer of low-rank gradients and of weights that are not projected."""

    buffers: ClassVar[int]
    """scratch of a low-rank gradient's size for each weight: the gradient itself and whatever else `update` is given"""
    scalars: ClassVar[int] = 0
    """bytes of scalars beside all scratch"""
    scratch_limit: ClassVar[int | None] = None
    """bytes of scratch that low-rank gradients updated together may take; None: as many as the largest weight has"""
    shared: ClassVar[int] = 0
    """bytes kept once"""

    def keep_once(self, device: torch.device) -> None:  # noqa: B027
        """Make what is kept once for all weights: nothing."""

    @abstractmethod
    def new_state(self, p: Tensor, shape: Sequence[int]) -> State:
        """Moments for a gradient of `shape`, on the device of `p`."""

    def count(self, group: Group, device: torch.device) -> Tensor:
        """The number of this step, fp32, as kernels read it: the group's "count" where that is made already."""
        made: Tensor | None = group.get("count")
        return step_tensor(group["step"] + 1, device) if made is None else made

    @abstractmethod
    def update(
        self, states: Sequence[State], buffers: Sequence[list[Tensor]], group: Group
    ) -> tuple[list[Tensor], float]:
        """Low-rank gradients (the first of the buffers, the others zero) to updates, and the factor they want."""

    @abstractmethod
    def update_weights(self, params: list[Tensor], states: Sequence[State], group: Group) -> None:
        """Weights that are not projected."""

    def update_plain(self, state_of: MutableMapping[Tensor, Any], params: list[Tensor], group: Group) -> None:
        """The same with an optimizer's own states, made when a weight has its first gradient."""
        for p in params:
            if not state_of[p]:
                state_of[p] = self.new_state(p, p.shape)
        self.update_weights(params, [state_of[p] for p in params], group)

    @abstractmethod
    def state_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        """Bytes of `new_state`."""

    def scratch_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        """Scratch of `update` beside its buffers."""
        return 0

    @abstractmethod
    def footprint(self, weight: Weight) -> Footprint:
        """Of a weight that is not projected."""


@dataclass(frozen=True, slots=True)
class InnerMethod(RankedMethod):
    """A method around an inner optimizer, which says how much of an update may be done at once."""

    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by the inner optimizer"

    @property
    @abstractmethod
    def inner_optimizer(self) -> Inner:
        """The optimizer inside the subspace, and of the other weights."""

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """The inner optimizer's, or as much as the largest weight has bytes."""
        limit = self.inner_optimizer.scratch_limit
        return largest_nbytes(weights) if limit is None else limit

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.is_matrix

    def shared(self) -> int:
        """The 8-bit maps."""
        return self.inner_optimizer.shared


def torch_eps(eps: float, beta2: float, step: int) -> float:
    """The eps that makes torch's m_hat / (sqrt(v_hat) + eps) the authors' m_hat / ((sqrt(v) + eps) / sqrt(bias))."""
    return eps / math.sqrt(1 - beta2**step)


class AdamWInner(Inner):
    """Moments in the parameter's dtype. One kernel for all, with the gradients in the parameters' place too.

    It reads an element's gradient before it writes the element's parameter: on CUDA one thread loads all four of an
    element (of four elements) into registers, computes, and stores all but the gradient, through pointers that promise
    nothing of each other (FusedAdamMathFunctor in fused_adam_utils.cuh: no __restrict__, no read-only loads; a gradient
    is stored with a gradient scaler alone). With lr and decay 1 nothing of the old parameter is left, and what stands
    there is minus the update: no second buffer, whose fresh pages cost a CPU a tenth of the step.
    """

    buffers = 1
    scalars = 4  # the step count, fp32, that the fused kernel reads

    def new_state(self, p: Tensor, shape: Sequence[int]) -> State:
        return {"exp_avg": p.new_zeros(shape), "exp_avg_sq": p.new_zeros(shape)}

    def update(
        self, states: Sequence[State], buffers: Sequence[list[Tensor]], group: Group
    ) -> tuple[list[Tensor], float]:
        (lows,) = buffers
        self._adamw(lows, lows, states, {**group, "lr": 1.0}, decay=1.0)
        return lows, group["lr"] * (1 - group["lr"] * group["weight_decay"])

    def update_weights(self, params: list[Tensor], states: Sequence[State], group: Group) -> None:
        if params:
            self._adamw(params, [p.grad for p in params], states, group)  # type: ignore[misc]
        if params and group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])

    def _adamw(
        self, params: list[Tensor], grads: list[Tensor], states: Sequence[State], group: Group, decay: float = 0.0
    ) -> None:
        count = self.count(group, params[0].device)
        fused_adamw_(
            params,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [count] * len(params),
            lr=group["lr"],
            betas=group["betas"],
            eps=torch_eps(group["eps"], group["betas"][1], group["step"] + 1),
            weight_decay=decay,
        )

    def state_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        return 2 * math.prod(shape) * itemsize

    def footprint(self, weight: Weight) -> Footprint:
        return adamw_footprint(weight)
