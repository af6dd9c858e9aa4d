"""The GaLore authors' own galore_torch: GaLoreAdamW."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, one_sign_rule, small_model, snapshot
from fidelity.twins.galore import METHOD
from memprof.method import named_weights


def reference(model: nn.Module) -> torch.optim.Optimizer:
    import galore_torch

    pairs = named_weights(model)
    projection = {"rank": METHOD.rank, "update_proj_gap": METHOD.update_gap, "scale": METHOD.scale, "proj_type": "std"}
    groups = [
        {"params": [p for weight, p in pairs if not weight.is_matrix]},
        {"params": [p for weight, p in pairs if weight.is_matrix], **projection},
    ]
    optimizer: torch.optim.Optimizer = galore_torch.GaLoreAdamW(
        groups,
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
        no_deprecation_warning=True,
    )
    return optimizer


def beside(around: Callable[[], AbstractContextManager[None]]) -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    return snapshot(ours), fed(ours, METHOD.prepare(ours)), fed(theirs, reference(theirs), around)


COMPARISONS = (
    Comparison(
        method="galore:rank=8,update_gap=3",
        oracle="galore-torch",
        start=lambda: beside(one_sign_rule),
        without_sign_rule=lambda: beside(nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="sign rule around its SVD",
    ),
)
