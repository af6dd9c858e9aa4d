"""torch's optimizers that treat a matrix as one: torch.optim.Adafactor, and torch.optim.Muon beside its AdamW."""

from __future__ import annotations

from dataclasses import replace

import torch

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.muon import METHOD as TWINS_MUON
from memprof.method import named_weights
from memprof.methods.adafactor import Adafactor

ADAFACTOR = Adafactor(lr=0.01, scale_parameter=True)
MUON = replace(TWINS_MUON, ns_dtype="bf16")


def adafactor_start() -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    reference = torch.optim.Adafactor(theirs.parameters(), lr=ADAFACTOR.lr, eps=(1e-30, 1e-3), weight_decay=0.0)
    return snapshot(ours), fed(ours, ADAFACTOR.prepare(ours)), fed(theirs, reference)


def muon_start() -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    pairs = named_weights(theirs)
    muon = torch.optim.Muon(
        [p for weight, p in pairs if weight.is_matrix],
        lr=MUON.lr,
        momentum=MUON.momentum,
        weight_decay=MUON.weight_decay,
    )
    adam = torch.optim.AdamW(
        [p for weight, p in pairs if not weight.is_matrix],
        lr=MUON.adam_lr or 0.0,
        betas=MUON.betas,
        eps=MUON.eps,
        weight_decay=MUON.weight_decay,
    )
    muon.register_step_post_hook(lambda *_: adam.step())
    return snapshot(ours), fed(ours, MUON.prepare(ours)), fed(theirs, muon)


COMPARISONS = (
    Comparison(
        method="adafactor:scale_parameter=true",
        oracle="torch",
        start=adafactor_start,
        steps=12,
        dtype="fp32",
        limit=1e-4,
        note="steps by min(lr, 1 / sqrt t) RMS(W): the same while lr is the smaller",
    ),
    Comparison(method="muon", oracle="torch", start=muon_start, steps=12, dtype="fp32", limit=1e-3,
               note="the iteration is in bf16 on both sides"),
)  # fmt: skip
