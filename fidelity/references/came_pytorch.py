"""The CAME authors' own came_pytorch."""

from __future__ import annotations

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import side_by_side
from fidelity.twins.came import METHOD


def reference(model: nn.Module) -> torch.optim.Optimizer:
    import came_pytorch

    optimizer: torch.optim.Optimizer = came_pytorch.CAME(
        model.parameters(),
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=(METHOD.eps1, METHOD.eps2),
        clip_threshold=METHOD.clip_threshold,
        weight_decay=METHOD.weight_decay,
    )
    return optimizer


COMPARISONS = (
    Comparison(
        method="came",
        oracle="came-pytorch",
        start=lambda: side_by_side(METHOD, reference),
        steps=12,
        dtype="fp32",
        limit=1e-4,
    ),
)
