"""lion-pytorch's Lion."""

from __future__ import annotations

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import side_by_side
from fidelity.twins.lion import METHOD


def reference(model: nn.Module) -> torch.optim.Optimizer:
    import lion_pytorch

    options = {"lr": METHOD.lr, "betas": METHOD.betas, "weight_decay": METHOD.weight_decay}
    return lion_pytorch.Lion(model.parameters(), **options)  # type: ignore[no-any-return]


COMPARISONS = (
    Comparison(
        method="lion",
        oracle="lion-pytorch",
        start=lambda: side_by_side(METHOD, reference),
        steps=12,
        dtype="fp32",
        limit=1e-5,
    ),
)
