"""AdaMeM as adamem.py reads its abstract: Adafactor of the projected gradient, with momentum, and of the rest."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, signed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.adamem import AdaMeM

METHOD = AdaMeM(rank=8, update_gap=3, lr=0.01, beta1=0.8, weight_decay=0.1)


def adafactor(g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    """Algorithm 4 of arXiv:1804.04235 without relative steps: g / sqrt(V), clipped to an RMS of 1."""
    beta2, squares = 1 - t**-0.8, g * g + 1e-30
    if g.ndim == 1:
        state["v"] = v = beta2 * state.get("v", 0.0) + (1 - beta2) * squares
    else:
        state["r"] = r = beta2 * state.get("r", 0.0) + (1 - beta2) * squares.mean(dim=1)
        state["c"] = c = beta2 * state.get("c", 0.0) + (1 - beta2) * squares.mean(dim=0)
        v = torch.outer(r, c) / r.mean()
    u: Tensor = g / v.sqrt()
    return u / max(1.0, float(u.pow(2).mean().sqrt()))


def bases(g: Tensor, method: AdaMeM) -> tuple[Tensor | None, Tensor | None]:
    """Left (M, R) and right (N, R) singular vectors, where they are used."""
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    tall = g.shape[0] >= g.shape[1]
    short = signed((vh.T if tall else u)[:, : method.rank])
    long = signed(torch.linalg.qr(g @ short if tall else g.T @ short).Q)
    left, right = (long, short) if tall else (short, long)
    if method.side == "full":
        return left, right
    return (None, right) if tall else (left, None)


def update(method: AdaMeM, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    keep = 1 - method.lr * method.weight_decay
    if not weight.is_matrix:
        return keep * w - method.lr * adafactor(g, state, t)
    if (t - 1) % method.update_gap == 0:
        state["bases"] = bases(g, method)
    left, right = (
        torch.eye(n, dtype=g.dtype) if b is None else b for n, b in zip(g.shape, state["bases"], strict=True)
    )
    low = left.T @ g @ right
    rest = method.lr * adafactor(g - left @ low @ right.T, state.setdefault("rest", {}), t)
    now = method.lr * adafactor(low, state.setdefault("low", {}), t)
    state["m"] = method.beta1 * state.get("m", 0.0) + (1 - method.beta1) * now
    stepped: Tensor = keep * (w - rest) - left @ state["m"] @ right.T
    return stepped


def beside(method: AdaMeM) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), functools.partial(update, method))


COMPARISONS = tuple(
    Comparison(
        method=f"adamem:rank=8,update_gap=3,side={side}",
        oracle=TWIN,
        start=functools.partial(beside, dataclasses.replace(METHOD, side=side)),
        steps=8,
        refreshes=3,
        limit=1e-9,
        note="a reading of the abstract, not the paper's equations",
    )
    for side in ("std", "full")
)
