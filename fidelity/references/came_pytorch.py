"""The CAME authors' own came_pytorch."""

from __future__ import annotations

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.came import METHOD


def start() -> tuple[Weights, Trainer, Trainer]:
    import came_pytorch

    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    reference = came_pytorch.CAME(
        theirs.parameters(),
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=(METHOD.eps1, METHOD.eps2),
        clip_threshold=METHOD.clip_threshold,
        weight_decay=METHOD.weight_decay,
    )
    return snapshot(ours), fed(ours, METHOD.prepare(ours)), fed(theirs, reference)


COMPARISONS = (Comparison(method="came", oracle="came-pytorch", start=start, steps=12, dtype="fp32", limit=1e-4),)
