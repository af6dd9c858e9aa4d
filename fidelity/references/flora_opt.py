"""The Flora authors' own flora_opt: Flora for PyTorch."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import side_by_side
from fidelity.twins.flora import METHOD
from memprof.methods.flora import Flora


def reference(method: Flora, model: nn.Module) -> torch.optim.Optimizer:
    from flora_opt.optimizers.torch.flora import Flora as Theirs

    optimizer: torch.optim.Optimizer = Theirs(
        model.parameters(),
        lr=method.lr,
        rank=method.rank,
        kappa=method.update_gap,
        eps=(method.eps1, method.eps2),
        clip_threshold=method.clip_threshold,
        decay_rate=method.decay_rate,
        beta1=method.beta1,
        weight_decay=method.weight_decay,
        scale_parameter=method.scale_parameter,
    )
    return optimizer


def comparison(method: Flora, spec: str, refreshes: int, note: str) -> Comparison:
    return Comparison(
        method=spec,
        oracle="flora-opt",
        start=lambda: side_by_side(method, partial(reference, method)),
        steps=12,
        refreshes=refreshes,
        dtype="fp32",
        limit=1e-4,
        note=note,
    )


COMPARISONS = (
    comparison(
        METHOD, "flora:rank=8,update_gap=3", 4, "both draw the same projectors: the stream of seeds is the same"
    ),
    comparison(dataclasses.replace(METHOD, beta1=None), "flora:beta1=none", 0, ""),
)
