"""CAME, algorithm 2 of arXiv:2307.02047 with sums as printed; a vector steps by its first moment, as in the code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.came import CAME

METHOD = CAME(lr=0.01, betas=(0.8, 0.95, 0.97), clip_threshold=0.8, weight_decay=0.1)


def factored(x: Tensor, state: dict[str, Any], names: tuple[str, str], beta: float, eps: float) -> Tensor:
    """The rank-one average of x^2 + eps."""
    square = x.square() + eps
    for name, dim in zip(names, (1, 0), strict=True):
        state[name] = beta * state.get(name, 0.0) + (1 - beta) * square.sum(dim)
    v: Tensor = torch.outer(state[names[0]], state[names[1]]) / state[names[0]].sum()
    return v


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    beta1, beta2, beta3 = METHOD.betas
    if g.ndim == 2:
        v = factored(g, state, ("r", "c"), beta2, METHOD.eps1)
    else:
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * (g.square() + METHOD.eps1)
    u = g / v.sqrt()
    u = u / max(1.0, u.square().mean().sqrt().item() / METHOD.clip_threshold)
    m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * u
    if g.ndim == 2:
        m = m / factored(u - m, state, ("R", "C"), beta3, METHOD.eps2).sqrt()
    stepped: Tensor = w - METHOD.lr * METHOD.weight_decay * w - METHOD.lr * m
    return stepped


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (Comparison(method="came", oracle=TWIN, start=start, steps=8, limit=1e-9),)
