"""DoRA, equation 5 of arXiv:2402.09353 by rows, the norm a constant in backward (section 4.3)."""

from __future__ import annotations

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.dora import DoRA

METHOD = DoRA(rank=8, alpha=16.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
SCALE = 16.0 / 8


def dense(parts: Parts) -> Tensor:
    v = parts["W"] + SCALE * parts["B"] @ parts["A"]
    w: Tensor = parts["m"][:, None] * v / v.detach().norm(dim=1, keepdim=True)
    return w


def decomposed(w: Tensor, a: Tensor) -> Parts:
    """W and its row lengths; A a random draw, taken as it is, and B zero."""
    b, m = w.new_zeros(len(w), len(a)), w.norm(dim=1)
    return {
        "W": w,
        "A": a.detach().clone().requires_grad_(),
        "B": b.requires_grad_(),
        "m": m.requires_grad_(),
    }


def start() -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    optimizer = METHOD.prepare(ours)
    twin = DenseTwin(
        model=plain,
        begin=lambda name, w: decomposed(w, ours.get_parameter(name.replace(".weight", ".lora_A.weight"))),
        dense=dense,
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
    )
    return before, trained(ours, optimizer, list(before)), twin.trainer()


COMPARISONS = (Comparison(method="dora:rank=8,alpha=16", oracle=TWIN, start=start, steps=8, limit=1e-9),)
