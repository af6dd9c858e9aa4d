"""GaLore with error feedback and growing gaps: equations 6 and 7 of "Approximations may be all you need"."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.galore import GaLore
from memprof.methods.galore_dynamics import GaLoreDynamics
from memprof.methods.galore_ef import GaLoreDynamicsEF, GaLoreEF

SETTINGS: dict[str, Any] = {"rank": 8, "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
GAPS: dict[str, Any] = {"update_gap": 2, "gap_growth": 1.5, "largest_gap": 4}


def is_due(step: int, state: dict[str, Any], method: GaLore) -> bool:
    """The paper's rule, counted as it goes: a multiple of the gap, which then grows."""
    gap = state.setdefault("gap", method.update_gap)
    if step % gap:
        return False
    if step > 0 and isinstance(method, GaLoreDynamics):
        state["gap"] = min(int(gap * method.gap_growth), method.largest_gap)
    return True


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int, method: GaLore, share: float) -> Tensor:
    eps = method.eps / math.sqrt(1 - method.betas[1] ** t)
    if not weight.is_matrix:
        return (w - method.lr * adam(g, state, t, method.betas, eps)) * (1 - method.lr * method.weight_decay)
    g = g + share * state.get("S", torch.zeros_like(g))
    tall = g.shape[0] >= g.shape[1]
    if is_due(t - 1, state, method):
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        state["P"] = signed(vh.T[:, : method.rank]) if tall else signed(u[:, : method.rank])
    p = state["P"]
    low: Tensor = g @ p if tall else p.T @ g
    state["S"] = g - (low @ p.T if tall else p @ low)
    n = adam(low, state, t, method.betas, eps)
    stepped: Tensor = w - method.lr * method.scale * (n @ p.T if tall else p @ n)
    return stepped * (1 - method.lr * method.weight_decay)


def start(method: GaLore, share: float) -> tuple[Weights, Trainer, Trainer]:
    model, rule = small_model(), partial(update, method=method, share=share)
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), rule)


def comparison(method: GaLore, share: float, settings: str, refreshes: int) -> Comparison:
    return Comparison(
        method=f"{method.name}:rank=8,{settings}",
        oracle=TWIN,
        start=lambda: start(method, share),
        steps=9,
        refreshes=refreshes,
        limit=1e-9,
    )


COMPARISONS = (
    comparison(GaLoreEF(update_gap=3, feedback=0.3, **SETTINGS), 0.3, "update_gap=3,feedback=0.3", 3),
    comparison(GaLoreDynamics(**GAPS, **SETTINGS), 0.0, "update_gap=2,largest_gap=4", 5),
    comparison(GaLoreDynamicsEF(feedback=0.3, **GAPS, **SETTINGS), 0.3, "update_gap=2,largest_gap=4,feedback=0.3", 5),
)
