"""Adam-mini, algorithm 1 of arXiv:2406.16793, block by block, with both partitions that the authors' code has had."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.adam_mini import AdamMini

METHOD = AdamMini(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def blocks(name: str, heads: int, partition: str, tensor: Tensor) -> list[Tensor]:
    if "norm" in name:
        return [tensor]
    if "q_proj" in name or "k_proj" in name:
        return list(tensor.chunk(heads))
    if partition == "1.1":
        return list(tensor)
    return list(tensor.reshape(-1, 1)) if "embed" in name or "lm_head" in name else [tensor]


def update(method: AdamMini, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    beta1, beta2 = method.betas
    m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    cut = partial(blocks, weight.name, weight.heads, method.partition)
    means = torch.stack([block.square().mean() for block in cut(g)])
    v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * means
    roots = (v / (1 - beta2**t)).sqrt() + method.eps
    steps = [block / (1 - beta1**t) / root for block, root in zip(cut(m), roots, strict=True)]
    decay = 0.0 if g.ndim == 1 else method.weight_decay
    return w - method.lr * decay * w - method.lr * torch.cat([s.reshape(-1) for s in steps]).view_as(w)


def start(method: AdamMini) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), partial(update, method))


COMPARISONS = tuple(
    Comparison(
        method=f"adam-mini:partition={partition}",
        oracle=TWIN,
        start=partial(start, replace(METHOD, partition=partition)),
        steps=8,
        limit=1e-9,
    )
    for partition in ("1.1", "1.0")
)
