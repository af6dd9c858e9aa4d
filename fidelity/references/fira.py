"""The Fira authors' own fira: FiraAdamW."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import matrices_apart, one_sign_rule, side_by_side
from fidelity.twins.fira import METHOD
from memprof.methods.fira import Fira


def reference(method: Fira, model: nn.Module) -> torch.optim.Optimizer:
    import fira

    optimizer: torch.optim.Optimizer = fira.FiraAdamW(
        matrices_apart(model, rank=method.rank, update_proj_gap=method.update_gap, alpha=method.scale, proj_type="std"),
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
        no_deprecation_warning=True,
    )
    return optimizer


def comparison(method: Fira, spec: str) -> Comparison:
    return Comparison(
        method=spec,
        oracle="fira",
        start=lambda: side_by_side(method, partial(reference, method), one_sign_rule),
        without_sign_rule=lambda: side_by_side(method, partial(reference, method), nullcontext),
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
