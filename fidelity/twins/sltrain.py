"""SLTrain, equation 2 of arXiv:2406.02214: W = (alpha / r) B A + V on a fixed random support, nothing else stored."""

from __future__ import annotations

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, effective_weights, small_model, snapshot, trained
from memprof.methods.sltrain import SLTrain

METHOD = SLTrain(rank=8, density=0.05, alpha=16.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
SCALE = 16.0 / 8


def dense(parts: Parts) -> Tensor:
    rows, columns = parts["at"]
    return SCALE * parts["B"] @ parts["A"] + torch.zeros_like(parts["W"]).index_put((rows, columns), parts["v"])


def start() -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    names = list(snapshot(plain))
    optimizer = METHOD.prepare(ours)

    def begin(name: str, w: Tensor) -> Parts:
        """What is drawn at random, A, v and their places, is taken as it is."""
        a, v, at = (
            ours.state_dict()[name.replace(".weight", key)].clone()
            for key in (".lora_A", ".sparse_value", ".sparse_index")
        )
        b = w.new_zeros(len(w), len(a)).requires_grad_()
        places = torch.stack([at // w.shape[1], at % w.shape[1]])
        return {"W": w, "A": a.requires_grad_(), "B": b, "v": v.requires_grad_(), "at": places}

    twin = DenseTwin(
        model=plain,
        begin=begin,
        dense=dense,
        lr=METHOD.lr,
        betas=METHOD.betas,
        eps=METHOD.eps,
        weight_decay=METHOD.weight_decay,
    )
    return effective_weights(ours, names), trained(ours, optimizer, names), twin.trainer()


COMPARISONS = (
    Comparison(method="sltrain:rank=8,density=0.05,alpha=16", oracle=TWIN, start=start, steps=8, limit=1e-9),
)
