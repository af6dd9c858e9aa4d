"""MicroAdam, algorithms 1 and 2 of arXiv:2405.15593: Adam over a window of sparse gradients, errors in 4 bits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.microadam import MicroAdam

METHOD = MicroAdam(density=0.05, window=3, block=300, quant_block=900, piece=9000, lr=0.01, betas=(0.8, 0.95), eps=1e-6,
                   weight_decay=0.1)  # fmt: skip


def top(a: Tensor) -> Tensor:
    """The largest of each block, of its size times the density rounded up; zeros elsewhere."""
    kept = torch.zeros_like(a)
    for start in range(0, len(a), METHOD.block):
        part = a[start : start + METHOD.block]
        places = start + part.abs().argsort(descending=True)[: math.ceil(len(part) * METHOD.density)]
        kept[places] = a[places]
    return kept


def in_four_bits(e: Tensor) -> Tensor:
    """The nearest of 16 numbers in equal steps from the least to the largest of each block, which are bf16."""
    out = e.clone()
    for start in range(0, len(e), METHOD.quant_block):
        part = e[start : start + METHOD.quant_block]
        low, high = (limit.bfloat16().to(e.dtype) for limit in (part.min(), part.max()))
        unit = (high - low) / 15
        steps = ((part - low) / unit).round().clamp(0, 15) if unit > 0 else torch.zeros_like(part)
        out[start : start + METHOD.quant_block] = low + steps * unit
    return out


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    a = g.flatten() + state.get("e", 0.0)
    kept = top(a)
    state["e"] = in_four_bits(torch.where(kept != 0, 0.0, a))
    state["window"] = [*state.get("window", []), kept.bfloat16().to(a.dtype)][-METHOD.window :]
    ages = list(zip(reversed(range(len(state["window"]))), state["window"], strict=True))
    (beta1, beta2), m, v = METHOD.betas, torch.zeros_like(a), torch.zeros_like(a)
    for age, past in ages:
        m += (1 - beta1) * beta1**age * past
        v += (1 - beta2) * beta2**age * past**2
    u = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + METHOD.eps)
    return (1 - METHOD.lr * METHOD.weight_decay) * w - METHOD.lr * u.view(w.shape)


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(), update)


COMPARISONS = (
    Comparison(
        method="microadam:density=0.05,window=3,block=300,quant_block=900",
        oracle=TWIN,
        start=start,
        steps=8,
        limit=1e-9,
        note="the authors' code needs CUDA",
    ),
)
