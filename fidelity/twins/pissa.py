"""PiSSA, equations 2 to 5 of arXiv:2404.02948, scaled as PEFT does: W = W_res + s B A, B A the principal part of W."""

from __future__ import annotations

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.pissa import PiSSA

METHOD = PiSSA(rank=8, alpha=16.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
SCALE = 16.0 / 8


def principal(w: Tensor, rank: int, scale: float) -> Parts:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    root = (s[:rank] / scale).sqrt().diag()
    a, b = root @ vh[:rank], u[:, :rank] @ root
    return {"W": w - scale * b @ a, "A": a.requires_grad_(), "B": b.requires_grad_()}


def start() -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    twin = DenseTwin(
        model=plain,
        begin=lambda _, w: principal(w, 8, SCALE),
        dense=lambda parts: parts["W"] + SCALE * parts["B"] @ parts["A"],
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
    )
    return before, trained(ours, METHOD.prepare(ours), list(before)), twin.trainer()


COMPARISONS = (Comparison(method="pissa:rank=8,alpha=16", oracle=TWIN, start=start, steps=8, limit=1e-9),)
