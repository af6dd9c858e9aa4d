"""The APOLLO authors' own apollo_torch: APOLLOAdamW."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, one_sign_rule, small_model, snapshot
from fidelity.twins.apollo import METHOD, MINI
from memprof.method import named_weights
from memprof.methods.apollo import Apollo


def reference(model: nn.Module, method: Apollo) -> torch.optim.Optimizer:
    import apollo_torch

    pairs = named_weights(model)
    projection = {
        "rank": method.rank,
        "update_proj_gap": method.update_gap,
        "scale": method.scale,
        "scale_type": method.scale_type,
        "proj": method.projection,
        "proj_type": "std",
    }
    groups = [
        {"params": [p for weight, p in pairs if not weight.is_matrix]},
        {"params": [p for weight, p in pairs if weight.is_matrix], **projection},
    ]
    optimizer: torch.optim.Optimizer = apollo_torch.APOLLOAdamW(
        groups, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay
    )
    return optimizer


def beside(method: Apollo, around: Callable[[], AbstractContextManager[None]]) -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference(theirs, method), around)


def random(method: Apollo, spec: str) -> Comparison:
    return Comparison(
        method=spec,
        oracle="apollo-torch",
        start=lambda: beside(method, nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="both draw the same projectors: the stream of seeds is the same",
    )


SVD = dataclasses.replace(METHOD, projection="svd")
COMPARISONS = (
    random(METHOD, "apollo:rank=8,update_gap=3"),
    random(dataclasses.replace(METHOD, scale_type="tensor"), "apollo:rank=8,update_gap=3,scale_type=tensor"),
    random(MINI, "apollo-mini:update_gap=3"),
    Comparison(
        method="apollo:rank=8,update_gap=3,projection=svd",
        oracle="apollo-torch",
        start=lambda: beside(SVD, one_sign_rule),
        without_sign_rule=lambda: beside(SVD, nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="sign rule around its SVD",
    ),
)
