"""lion-pytorch's Lion."""

from __future__ import annotations

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.lion import METHOD


def start() -> tuple[Weights, Trainer, Trainer]:
    import lion_pytorch

    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    options = {"lr": METHOD.lr, "betas": METHOD.betas, "weight_decay": METHOD.weight_decay}
    return (
        snapshot(ours),
        fed(ours, METHOD.prepare(ours)),
        fed(theirs, lion_pytorch.Lion(theirs.parameters(), **options)),
    )


COMPARISONS = (Comparison(method="lion", oracle="lion-pytorch", start=start, steps=12, dtype="fp32", limit=1e-5),)
