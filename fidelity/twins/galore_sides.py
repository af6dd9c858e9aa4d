"""GaLore from every side of a matrix, and with Adafactor inside: `get_orthogonal_matrix` of galore_torch, by SVD."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.galore import GaLore

ADAMW = GaLore(rank=8, update_gap=3, scale=0.5, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
ADAFACTOR = dataclasses.replace(ADAMW, inner="adafactor", lr=0.03)
"""a rate at which rounding the fp32 weights is small beside their updates"""


def bases(g: Tensor, method: GaLore) -> tuple[Tensor | None, Tensor | None]:
    """Left (M, R) and right (N, R), or None where that side is not projected."""
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    rank, tall = method.rank, g.shape[0] >= g.shape[1]
    from_left = {"std": not tall, "reverse_std": tall, "left": True, "right": False, "full": True}[method.side]
    from_right = {"std": tall, "reverse_std": not tall, "left": False, "right": True, "full": True}[method.side]
    return signed(u[:, :rank]) if from_left else None, signed(vh.T[:, :rank]) if from_right else None


def down(g: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    low: Tensor = g if left is None else left.T @ g
    return low if right is None else low @ right


def up(low: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    back = low if left is None else left @ low
    return back if right is None else back @ right.T


def adafactor(g: Tensor, state: dict[str, Any], t: int, beta1: float | None) -> Tensor:
    """Adafactor's update without learning rate: rank-one second moment, RMS clipped at 1, [averaged]."""
    beta2 = 1 - t**-0.8
    square = g * g + 1e-30
    if g.ndim == 1:
        state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * square
        v = state["v"]
    else:
        state["row"] = beta2 * state.get("row", 0) + (1 - beta2) * square.mean(1)
        state["col"] = beta2 * state.get("col", 0) + (1 - beta2) * square.mean(0)
        v = torch.outer(state["row"], state["col"]) / state["row"].mean()
    u: Tensor = g / v.sqrt()
    u = u / max(1.0, float(u.square().mean().sqrt()))
    if beta1 is not None:
        u = beta1 * state.get("m", torch.zeros_like(u)) + (1 - beta1) * u
        state["m"] = u
    return u


def inner(g: Tensor, state: dict[str, Any], t: int, method: GaLore) -> Tensor:
    if method.inner == "adafactor":
        return adafactor(g, state, t, method.beta1)
    return adam(g, state, t, method.betas, method.eps / (1 - method.betas[1] ** t) ** 0.5)


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int, method: GaLore) -> Tensor:
    if weight.is_matrix:
        if (t - 1) % method.update_gap == 0:
            state["bases"] = bases(g, method)
        direction = method.scale * up(inner(down(g, *state["bases"]), state, t, method), *state["bases"])
    else:
        direction = inner(g, state, t, method)
    keep = 1 - method.lr * method.weight_decay
    after = (w - method.lr * direction) * keep
    return w * keep - method.lr * direction if method.inner == "adafactor" else after


def start(method: GaLore) -> tuple[Weights, Trainer, Trainer]:
    dtype = torch.float32 if method.inner == "adafactor" else torch.float64  # whose moments are fp32
    model, other = small_model(dtype), small_model(dtype).double()
    return snapshot(model), fed(model, method.prepare(model)), twin(other, partial(update, method=method))


def comparison(name: str, method: GaLore, limit: float = 1e-9) -> Comparison:
    return Comparison(
        method=f"galore:{name},rank=8,update_gap=3",
        oracle=TWIN,
        start=lambda: start(method),
        steps=8,
        refreshes=3,
        dtype="fp32" if method.inner == "adafactor" else "fp64",
        limit=limit,
    )


COMPARISONS = (
    *(
        comparison(f"side={side}", dataclasses.replace(ADAMW, side=side))
        for side in ("reverse_std", "left", "right", "full")
    ),
    comparison("inner=adafactor", ADAFACTOR, limit=1e-4),
    comparison("inner=adafactor,beta1=0.9,side=full", dataclasses.replace(ADAFACTOR, side="full", beta1=0.9), 1e-4),
)
