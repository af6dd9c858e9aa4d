"""AdamW, algorithm 2 of arXiv:1711.05101, on every weight."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.adamw import AdamW

METHOD = AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    return w - METHOD.lr * (adam(g, state, t, METHOD.betas, METHOD.eps) + METHOD.weight_decay * w)


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (Comparison(method="adamw", oracle=TWIN, start=start, steps=8, limit=1e-12),)
