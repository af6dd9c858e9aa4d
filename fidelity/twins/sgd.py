"""SGD with heavy-ball or Nesterov momentum, as Sutskever et al. 2013 reformulate it, with torch's place of the rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.sgd import SGD

HEAVY_BALL = SGD(lr=0.1, momentum=0.8, weight_decay=0.1)
NESTEROV = SGD(lr=0.1, momentum=0.8, weight_decay=0.1, nesterov=True)
PLAIN = SGD(lr=0.1, momentum=0.0, weight_decay=0.1)


def beside(method: SGD) -> Callable[[], tuple[Weights, Trainer, Trainer]]:
    def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
        g = g + method.weight_decay * w
        m: Tensor = method.momentum * state.get("m", 0 * g) + g
        state["m"] = m
        return w - method.lr * (g + method.momentum * m if method.nesterov else m)

    def start() -> tuple[Weights, Trainer, Trainer]:
        model = small_model()
        return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), update)

    return start


COMPARISONS = tuple(
    Comparison(method=name, oracle=TWIN, start=beside(method), steps=8, limit=1e-12)
    for name, method in (("sgd", HEAVY_BALL), ("sgd:nesterov=true", NESTEROV), ("sgd:momentum=0", PLAIN))
)
