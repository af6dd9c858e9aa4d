"""The APOLLO authors' own apollo_torch: APOLLOAdamW."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import matrices_apart, one_sign_rule, side_by_side
from fidelity.twins.apollo import METHOD, MINI
from memprof.methods.apollo import Apollo


def reference(method: Apollo, model: nn.Module) -> torch.optim.Optimizer:
    import apollo_torch

    groups = matrices_apart(
        model,
        rank=method.rank,
        update_proj_gap=method.update_gap,
        scale=method.scale,
        scale_type=method.scale_type,
        proj=method.projection,
        proj_type="std",
    )
    optimizer: torch.optim.Optimizer = apollo_torch.APOLLOAdamW(
        groups, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay
    )
    return optimizer


def random(method: Apollo, spec: str) -> Comparison:
    return Comparison(
        method=spec,
        oracle="apollo-torch",
        start=lambda: side_by_side(method, partial(reference, method), nullcontext),
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
        start=lambda: side_by_side(SVD, partial(reference, SVD), one_sign_rule),
        without_sign_rule=lambda: side_by_side(SVD, partial(reference, SVD), nullcontext),
        steps=12,
        refreshes=4,
        dtype="fp32",
        limit=1e-4,
        note="sign rule around its SVD",
    ),
)
