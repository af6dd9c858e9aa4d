"""Lion, algorithm 2 of arXiv:2302.06675."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.lion import Lion

METHOD = Lion(lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    (beta1, beta2), m = METHOD.betas, state.get("m", 0 * g)
    state["m"] = beta2 * m + (1 - beta2) * g
    sign: Tensor = (beta1 * m + (1 - beta1) * g).sign()
    return w - METHOD.lr * (sign + METHOD.weight_decay * w)


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (Comparison(method="lion", oracle=TWIN, start=start, steps=8, limit=1e-9),)
