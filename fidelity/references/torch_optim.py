"""torch's own optimizers: torch.optim.AdamW and torch.optim.SGD, one weight at a time (foreach and fused off)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins import adamw, sgd
from memprof.methods.sgd import SGD


def adamw_start() -> tuple[Weights, Trainer, Trainer]:
    ours, theirs, method = small_model(torch.float32), small_model(torch.float32), adamw.METHOD
    reference = torch.optim.AdamW(
        theirs.parameters(),
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
        foreach=False,
    )
    return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference)


def sgd_start(method: SGD) -> Callable[[], tuple[Weights, Trainer, Trainer]]:
    def start() -> tuple[Weights, Trainer, Trainer]:
        ours, theirs = small_model(torch.float32), small_model(torch.float32)
        reference = torch.optim.SGD(theirs.parameters(), foreach=False, **method.hyperparameters())  # type: ignore[arg-type]
        return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference)

    return start


COMPARISONS = (
    Comparison(method="adamw", oracle="torch", start=adamw_start, steps=12, dtype="fp32", limit=1e-6),
    *(
        Comparison(method=name, oracle="torch", start=sgd_start(method), steps=12, dtype="fp32", limit=1e-6)
        for name, method in (("sgd", sgd.HEAVY_BALL), ("sgd:nesterov=true", sgd.NESTEROV))
    ),
)
