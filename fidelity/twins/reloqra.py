"""ReLoQRa, equation 5 of "Approximations may be all you need", in both readings: the whole QR, its first r taken."""

from __future__ import annotations

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import Parts
from fidelity.problem import Trainer, Weights
from fidelity.twins.relora import SCALE, SETTINGS, beside
from memprof.methods.reloqra import ReLoQRa


def start(reading: str) -> tuple[Weights, Trainer, Trainer]:
    method = ReLoQRa(**SETTINGS, reading=reading)

    def decomposed(w: Tensor, _: Tensor) -> Parts:
        q, r = torch.linalg.qr(w)  # of a wide W: Q (M, M), R (M, N)
        b, a = q[:, :8].clone(), r[:8].clone()
        frozen = w - SCALE * b @ a if reading == "preserving" else w
        return {"W": frozen, "A": a.requires_grad_(), "B": b.requires_grad_()}

    return beside(method, decomposed)


COMPARISONS = tuple(
    Comparison(
        method=f"reloqra:rank=8,alpha=16,reset_every=3,prune=1,reading={reading}",
        oracle=TWIN,
        start=lambda reading=reading: start(reading),  # type: ignore[misc]
        steps=8,
        refreshes=2,
        limit=1e-9,
    )
    for reading in ("preserving", "literal")
)
