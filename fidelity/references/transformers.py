"""Hugging Face's Adafactor, which is fairseq's and GaLore's."""

from __future__ import annotations

from functools import partial

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.adafactor import VARIANTS
from memprof.methods.adafactor import Adafactor


def start(method: Adafactor) -> tuple[Weights, Trainer, Trainer]:
    from transformers.optimization import Adafactor as Reference

    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    fields = method.hyperparameters()
    eps = (fields.pop("eps1"), fields.pop("eps2"))
    reference = Reference(theirs.parameters(), eps=eps, relative_step=False, **fields)
    return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference)


COMPARISONS = tuple(
    Comparison(method=name, oracle="transformers", start=partial(start, method), steps=12, dtype="fp32", limit=1e-4)
    for name, method in VARIANTS.items()
)
