"""Inside GaLore's subspace: Adafactor and 8-bit AdamW, after galore_torch 1.0's GaLoreAdafactor and GaLoreAdamW8bit.

* `adafactor` is Hugging Face's with a given learning rate (relative_step and scale_parameter off, as GaLore's
  torchrun_main.py sets them), fp32 moments, and a decay before the update. Theirs casts each gradient to fp32 first, so
  its basis and low-rank gradient are fp32 in a bf16 run too; here both are in the parameter's dtype.
* `adamw-8bit` has bitsandbytes' moments (see blockwise.py). eps is bias-corrected here. Weights that are not
  projected decay before the update as in `adamw-8bit`, those that are after it as in GaLoreAdamW8bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from memprof.method import Footprint, Weight
from memprof.methods.parts import blockwise
from memprof.methods.parts.adafactor_update import update_weights_ as adafactor_
from memprof.methods.parts.adam8bit import adam8bit_
from memprof.methods.parts.factored_moments import clip_factor, decay_moments_, new_state, normalised
from memprof.methods.parts.galore_inner import AdamWInner, Inner, State
from memprof.methods.parts.projection import wide_itemsize
from memprof.optimizer import Group


class AdafactorSettings(Protocol):
    """What the inner Adafactor asks of an `Adafactor`."""

    @property
    def beta1(self) -> float | None: ...
    def hyperparameters(self) -> dict[str, Any]: ...
    def formula(self, weight: Weight) -> Footprint: ...


class AdafactorInner(Inner):
    """One moment for each row and column of a low-rank gradient, fp32; with `beta1` a first moment too."""

    buffers = 1
    scratch_limit = 0

    def __init__(self, method: AdafactorSettings) -> None:
        self.method = method

    def new_state(self, p: Tensor, shape: Sequence[int]) -> State:
        return new_state(p, shape, self.method.beta1 is not None)

    def update(
        self, states: Sequence[State], buffers: Sequence[list[Tensor]], group: Group
    ) -> tuple[list[Tensor], float]:
        (grads,) = buffers
        settings = self._settings(group)
        decay_moments_(states, settings)
        for grad, state in zip(grads, states, strict=True):
            self._update_one(grad, state, settings)
        return grads, -1.0

    def _update_one(self, grad: Tensor, state: State, settings: Group) -> None:
        """The update in the gradient's place; a function of its own, so that its fp32 copy is gone before the next."""
        update = normalised(grad, state, settings)
        update.mul_(clip_factor(update, settings["clip_threshold"]).mul_(settings["lr"]))
        beta1 = self.method.beta1
        grad.copy_(update if beta1 is None else state["exp_avg"].lerp_(update, 1 - beta1))

    def update_weights(self, params: list[Tensor], states: Sequence[State], group: Group) -> None:
        if params:
            adafactor_(params, states, self._settings(group))

    def _settings(self, group: Group) -> Group:
        rates = {"lr": group["lr"], "weight_decay": group["weight_decay"], "step": group["step"] + 1}
        return {**self.method.hyperparameters(), **rates}

    def state_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        first = math.prod(shape) if self.method.beta1 is not None else 0
        return wide_itemsize(itemsize) * (first + sum(shape))

    def scratch_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        """The update, fp32 or fp64, beside the factor of its rows, (R or L, 1), or of its columns, or the clipping."""
        return wide_itemsize(itemsize) * (math.prod(shape) + max(*shape, 1))

    def footprint(self, weight: Weight) -> Footprint:
        return self.method.formula(weight)


class AdamW8bitInner(Inner):
    """8-bit moments of low-rank gradients as of other weights; those of fewer than 4096 elements are fp32."""

    buffers = 2
    scalars = blockwise.UPDATE_SCALARS
    scratch_limit = blockwise.SCRATCH_LIMIT
    shared = blockwise.MAP_BYTES

    def keep_once(self, device: torch.device) -> None:
        self.maps = blockwise.Maps(device)

    def new_state(self, p: Tensor, shape: Sequence[int]) -> State:
        return blockwise.new_moments(p.new_empty(shape))

    def update(
        self, states: Sequence[State], buffers: Sequence[list[Tensor]], group: Group
    ) -> tuple[list[Tensor], float]:
        grads, updates = buffers
        moments = [{key: value for key, value in state.items() if key.startswith("exp_avg")} for state in states]
        self._adamw(updates, grads, moments, {**group, "lr": 1.0, "weight_decay": 0.0})
        return updates, group["lr"] * (1 - group["lr"] * group["weight_decay"])

    def update_weights(self, params: list[Tensor], states: Sequence[State], group: Group) -> None:
        if params:
            self._adamw(params, [p.grad for p in params], states, group)  # type: ignore[misc]

    def _adamw(self, params: list[Tensor], grads: list[Tensor], states: Sequence[State], group: Group) -> None:
        count = self.count(group, params[0].device)
        hyperparameters = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
        adam8bit_(params, grads, states, self.maps, count, **hyperparameters)

    def state_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        return blockwise.moment_bytes(math.prod(shape))

    def scratch_bytes(self, shape: Sequence[int], itemsize: int) -> int:
        return blockwise.scratch_bytes(math.prod(shape), itemsize)

    def footprint(self, weight: Weight) -> Footprint:
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=self.state_bytes(weight.shape, weight.itemsize),
            transient=self.scratch_bytes(weight.shape, weight.itemsize),
        )


INNERS = ("adamw", "adafactor", "adamw-8bit")


def make_inner(name: str, adafactor: AdafactorSettings) -> Inner:
    if name == "adafactor":
        return AdafactorInner(adafactor)
    return AdamW8bitInner() if name == "adamw-8bit" else AdamWInner()
