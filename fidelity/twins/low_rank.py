"""The factorised layer of arXiv:2209.13569: W = B A, from the SVD of W ("spectral") or at random."""

from __future__ import annotations

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.low_rank import LowRank

RANK = 8


def spectral(w: Tensor) -> Parts:
    u, s, vh = torch.linalg.svd(w, full_matrices=False)
    root = s[:RANK].sqrt().diag()
    return {"A": (root @ vh[:RANK]).requires_grad_(), "B": (u[:, :RANK] @ root).requires_grad_()}


def beside(init: str) -> tuple[Weights, Trainer, Trainer]:
    method = LowRank(rank=RANK, init=init, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    optimizer = method.prepare(ours)

    def begin(name: str, w: Tensor) -> Parts:
        if init == "spectral":
            return spectral(w)
        drawn = {part: ours.get_parameter(name.replace(".weight", f".{part}.weight")) for part in "AB"}
        return {part: p.detach().clone().requires_grad_() for part, p in drawn.items()}

    twin = DenseTwin(
        model=plain,
        begin=begin,
        dense=lambda parts: parts["B"] @ parts["A"],
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
    )
    return before, trained(ours, optimizer, list(before)), twin.trainer()


COMPARISONS = (
    Comparison(
        method="low-rank:rank=8,init=spectral", oracle=TWIN, start=lambda: beside("spectral"), steps=8, limit=1e-9
    ),
    Comparison(method="low-rank:rank=8", oracle=TWIN, start=lambda: beside("random"), steps=8, limit=1e-9),
)
