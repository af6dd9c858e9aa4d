"""Hugging Face's Adafactor, which is fairseq's and GaLore's."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import side_by_side
from fidelity.twins.adafactor import VARIANTS
from memprof.methods.adafactor import Adafactor


def reference(method: Adafactor, model: nn.Module) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor as Reference

    fields = method.hyperparameters()
    eps = (fields.pop("eps1"), fields.pop("eps2"))
    optimizer: torch.optim.Optimizer = Reference(model.parameters(), eps=eps, relative_step=False, **fields)
    return optimizer


COMPARISONS = tuple(
    Comparison(
        method=name,
        oracle="transformers",
        start=partial(side_by_side, method, partial(reference, method)),
        steps=12,
        dtype="fp32",
        limit=1e-4,
    )
    for name, method in VARIANTS.items()
)
