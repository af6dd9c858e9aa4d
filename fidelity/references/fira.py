"""The Fira authors' own fira: FiraAdamW."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, one_sign_rule, small_model, snapshot
from fidelity.twins.fira import METHOD
from memprof.method import named_weights
from memprof.methods.fira import Fira


def reference(model: nn.Module, method: Fira) -> torch.optim.Optimizer:
    import fira

    pairs = named_weights(model)
    projection = {
        "rank": method.rank,
        "update_proj_gap": method.update_gap,
        "alpha": method.scale,
        "proj_type": "std",
    }
    groups = [
        {"params": [p for weight, p in pairs if not weight.is_matrix]},
        {"params": [p for weight, p in pairs if weight.is_matrix], **projection},
    ]
    optimizer: torch.optim.Optimizer = fira.FiraAdamW(
        groups,
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
        no_deprecation_warning=True,
    )
    return optimizer


def beside(method: Fira, around: Callable[[], AbstractContextManager[None]]) -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference(theirs, method), around)


def comparison(method: Fira, spec: str) -> Comparison:
    return Comparison(
        method=spec,
        oracle="fira",
        start=lambda: beside(method, one_sign_rule),
        without_sign_rule=lambda: beside(method, nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="sign rule around its SVD",
    )


COMPARISONS = (
    comparison(METHOD, "fira:rank=8,update_gap=3"),
    comparison(dataclasses.replace(METHOD, scale=0.25), "fira:rank=8,update_gap=3,scale=0.25"),
)
