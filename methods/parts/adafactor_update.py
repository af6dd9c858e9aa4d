"""Adafactor's step on given weights: of `adafactor`, and of what GaLore's inner Adafactor takes as it is.

Shapes: a weight is (O, I) or (D,); G weights of one shape are updated together. Moments are fp32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from memprof.methods.parts.factored_moments import decay_moments_, move_, raw_updates_, subtract_


def update_weights_(params: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
    """One Adafactor step on weights that have a gradient, one by one; `group["step"]` counts this step already."""
    decay_moments_(states, group)
    for p, state in zip(params, states, strict=True):
        update_together_([p], [state], group)


def update_together_(ps: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
    """G weights of one shape, whose moments have decayed; a function of its own, so that its scratch ends with it."""
    grads: list[Tensor] = [p.grad for p in ps]  # type: ignore[misc]
    rates = step_sizes(ps, group["eps2"]).mul_(group["lr"]) if group["scale_parameter"] else None
    scratch = next(iter(states[0].values())).new_empty(len(ps), *ps[0].shape)
    weight = group["step"] ** group["decay_rate"]  # 1 - beta2_t
    factor = raw_updates_(scratch, grads, states, weight, group["clip_threshold"])
    factor.mul_(group["lr"] if rates is None else rates.view(-1, *[1] * (factor.ndim - 1)))
    decay: float | list[Tensor] = group["lr"] * group["weight_decay"]
    if decay and rates is not None:
        decay = list(rates.mul_(-group["weight_decay"]).add_(1).unbind())
    if group["beta1"] is None:
        move_(ps, scratch, factor, decay)
        return
    exp_avgs = [state["exp_avg"] for state in states]
    torch._foreach_lerp_(exp_avgs, list(scratch.mul_(factor).unbind()), 1 - group["beta1"])
    subtract_(ps, exp_avgs, scratch, decay)


def step_sizes(ps: Sequence[Tensor], eps2: float) -> Tensor:
    """max(eps2, RMS(p)) of weights of one shape, (G,)"""
    norms = torch._foreach_norm(list(ps), 2, torch.promote_types(ps[0].dtype, torch.float32))
    return torch.stack(norms).div_(ps[0].numel() ** 0.5).clamp_(min=eps2)
