"""GaLore with 8-bit AdamW inside: the moments of the projected gradient are rounded as adamw-8bit rounds a weight's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from fidelity.twins.adamw_8bit import rounded
from memprof.method import Weight
from memprof.methods.galore import GaLore

METHOD = GaLore(
    rank=16, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=1.0, inner="adamw-8bit"
)
"""of rank 16 the long sides' moments, 352 x 16, are rounded and the others', 128 x 16, are not"""
SMALLEST_ROUNDED = 4096


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    w, g = w.double(), g.double()
    keep = 1 - METHOD.lr * METHOD.weight_decay
    if not weight.is_matrix:
        low = g
        stepped = w * keep - METHOD.lr * adam(low, state, t, METHOD.betas, METHOD.eps)
    else:
        tall = g.shape[0] >= g.shape[1]
        if (t - 1) % METHOD.update_gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            state["P"] = signed((vh.T if tall else u)[:, : METHOD.rank])
        p = state["P"]
        low = g @ p if tall else p.T @ g
        n = adam(low, state, t, METHOD.betas, METHOD.eps)
        stepped = (w - METHOD.lr * METHOD.scale * (n @ p.T if tall else p @ n)) * keep
    if low.numel() >= SMALLEST_ROUNDED:
        state["m"], state["v"] = rounded(state["m"], signed=True), rounded(state["v"], signed=False)
    return stepped


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model(torch.float32)
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(torch.float32), update)


COMPARISONS = (
    Comparison(
        method="galore:inner=adamw-8bit,rank=16,update_gap=3",
        oracle=TWIN,
        start=start,
        steps=6,
        refreshes=2,
        dtype="fp32",
        limit=3e-3,
        note="a rounding apart may flip a code",
    ),
)
