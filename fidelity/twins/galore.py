"""GaLore, algorithm 2 of arXiv:2403.03507 with AdamW inside, on the shorter side of every matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.galore import GaLore

METHOD = GaLore(rank=8, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    eps = METHOD.eps / math.sqrt(1 - METHOD.betas[1] ** t)  # Hugging Face's AdamW adds eps before it corrects v
    if not weight.is_matrix:
        stepped = w - METHOD.lr * adam(g, state, t, METHOD.betas, eps)
    else:
        tall = g.shape[0] >= g.shape[1]
        if (t - 1) % METHOD.update_gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            state["P"] = signed(vh.T[:, : METHOD.rank]) if tall else signed(u[:, : METHOD.rank])
        p = state["P"]
        n = adam(g @ p if tall else p.T @ g, state, t, METHOD.betas, eps)
        stepped = w - METHOD.lr * METHOD.scale * (n @ p.T if tall else p @ n)
    return stepped * (1 - METHOD.lr * METHOD.weight_decay)


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (
    Comparison(method="galore:rank=8,update_gap=3", oracle=TWIN, start=start, steps=8, refreshes=3, limit=1e-9),
)
