"""Muon as its author's post has it: Nesterov momentum, five steps of the quintic, on attention and MLP matrices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.muon import Muon

METHOD = Muon(ns_dtype=None, lr=0.02, momentum=0.8, adam_lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def newton_schulz(g: Tensor) -> Tensor:
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    out: Tensor = x.T if g.shape[0] > g.shape[1] else x
    return out


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    kept = 1 - METHOD.weight_decay * (METHOD.lr if weight.is_matrix else 0.01)
    if not weight.is_matrix:
        return kept * w - 0.01 * adam(g, state, t, METHOD.betas, METHOD.eps)
    mu = METHOD.momentum
    m = state["m"] = mu * state.get("m", 0.0) + (1 - mu) * g
    scale = max(1.0, g.shape[0] / g.shape[1]) ** 0.5
    stepped: Tensor = kept * w - METHOD.lr * scale * newton_schulz((1 - mu) * g + mu * m)
    return stepped


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (Comparison(method="muon:ns_dtype=none", oracle=TWIN, start=start, steps=8, limit=1e-9),)
