"""Adafactor, algorithms 4 and 5 of arXiv:1804.04235 with sums as printed; first moment and decay as transformers'."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.adafactor import Adafactor

METHOD = Adafactor(lr=0.01, decay_rate=-0.7, clip_threshold=0.8, weight_decay=0.1)
VARIANTS = {
    "adafactor": METHOD,
    "adafactor:beta1=0.9": replace(METHOD, beta1=0.9),
    "adafactor:scale_parameter=true": replace(METHOD, scale_parameter=True),
}


def rms(tensor: Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def second_moment(g: Tensor, state: dict[str, Any], beta2: float, eps: float) -> Tensor:
    square = g.square() + eps
    if g.ndim == 1:
        state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * square
        return torch.as_tensor(state["v"])
    state["R"] = beta2 * state.get("R", 0.0) + (1 - beta2) * square.sum(1)
    state["C"] = beta2 * state.get("C", 0.0) + (1 - beta2) * square.sum(0)
    v: Tensor = torch.outer(state["R"], state["C"]) / state["R"].sum()
    return v


def update(method: Adafactor, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    u = g / second_moment(g, state, 1 - t**method.decay_rate, method.eps1).sqrt()
    alpha = method.lr * (max(method.eps2, rms(w)) if method.scale_parameter else 1.0)
    step = alpha * u / max(1.0, rms(u) / method.clip_threshold)
    if method.beta1 is not None:
        step = state["m"] = method.beta1 * state.get("m", 0.0) + (1 - method.beta1) * step
    return w - alpha * method.weight_decay * w - step


def start(method: Adafactor) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), partial(update, method))


COMPARISONS = tuple(
    Comparison(method=name, oracle=TWIN, start=partial(start, method), steps=8, limit=1e-9)
    for name, method in VARIANTS.items()
)
