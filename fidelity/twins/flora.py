"""Flora, arXiv:2402.03293, algorithm 2 around Adafactor, its moment taken back to full size and down again."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight, named_weights
from memprof.methods.flora import Flora

METHOD = Flora(rank=8, update_gap=3, lr=0.05, beta1=0.8, weight_decay=0.1)


@functools.cache
def first_seeds() -> dict[str, int]:
    return {weight.name: place for place, (weight, _) in enumerate(named_weights(small_model()), start=1)}


def integers(seed: int, count: int) -> list[int]:
    return torch.randint(0, 2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def projector(shape: tuple[int, int], seed: int) -> Tensor:
    """(N, R) of a tall or square matrix, (M, R) of a wide one."""
    assert METHOD.rank is not None
    tall = shape[0] >= shape[1]
    left, right = integers(seed, 2)
    size = (shape[1], METHOD.rank) if tall else (METHOD.rank, shape[0])
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(right if tall else left), dtype=torch.float64)
    return (drawn if tall else drawn.T) / math.sqrt(METHOD.rank)


def average(u: Tensor, weight: Weight, state: dict[str, Any], t: int) -> Tensor:
    """The update with the first moment in it, compressed unless a side is more than four times the other."""
    beta1, tall = METHOD.beta1, u.shape[0] >= u.shape[-1]
    assert beta1 is not None
    if u.ndim == 1 or max(u.shape) > 4 * min(u.shape):
        state["m"] = beta1 * state.get("m", torch.zeros_like(u)) + (1 - beta1) * u
        out: Tensor = state["m"]
        return out
    seed = state.setdefault("seed", first_seeds()[weight.name])
    p = projector((u.shape[0], u.shape[1]), seed)
    m = state.get("m", torch.zeros_like(u @ p if tall else p.T @ u))
    full = m @ p.T if tall else p @ m
    if t % METHOD.update_gap == 0:
        state["seed"] = integers(seed, 15)[-1]
        p = projector((u.shape[0], u.shape[1]), state["seed"])
        m = full @ p if tall else p.T @ full
    state["m"] = beta1 * m + (1 - beta1) * (u @ p if tall else p.T @ u)
    averaged: Tensor = beta1 * full + (1 - beta1) * u
    return averaged


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    beta2 = 1 - t**METHOD.decay_rate
    squares = g**2 + METHOD.eps1
    means = {"v": squares} if g.ndim == 1 else {"row": squares.mean(1), "col": squares.mean(0)}
    for key, mean in means.items():
        state[key] = beta2 * state.get(key, torch.zeros_like(mean)) + (1 - beta2) * mean
    v = state["v"] if g.ndim == 1 else torch.outer(state["row"], state["col"]) / state["row"].mean()
    u = average(g / v.sqrt(), weight, state, t)
    u = u / max(1.0, float(u.square().mean().sqrt()) / METHOD.clip_threshold)
    lr = METHOD.lr * max(METHOD.eps2, float(w.square().mean().sqrt()))
    return w - lr * METHOD.weight_decay * w - lr * u


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (
    Comparison(
        method="flora:rank=8,update_gap=3",
        oracle=TWIN,
        start=start,
        steps=8,
        refreshes=2,
        limit=1e-9,
    ),
)
