"""LoRA, equation 3 of arXiv:2106.09685: W + (alpha / r) B A with W frozen, A uniform, B zero."""

from __future__ import annotations

from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.lora import LoRA

METHOD = LoRA(rank=8, alpha=16.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
SCALE = 16.0 / 8


def dense(parts: Parts) -> Tensor:
    return parts["W"] + SCALE * parts["B"] @ parts["A"]


def start() -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    optimizer = METHOD.prepare(ours)

    def begin(name: str, w: Tensor) -> Parts:
        a = ours.get_parameter(name.replace(".weight", ".lora_A.weight"))  # a random draw, taken as it is
        return {"W": w, "A": a.detach().clone().requires_grad_(), "B": w.new_zeros(len(w), 8).requires_grad_()}

    twin = DenseTwin(
        model=plain,
        begin=begin,
        dense=dense,
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
    )
    return before, trained(ours, optimizer, list(before)), twin.trainer()


COMPARISONS = (Comparison(method="lora:rank=8,alpha=16", oracle=TWIN, start=start, steps=8, limit=1e-9),)
