"""Fira, arXiv:2410.01623 with its code's reading of what lies outside the subspace, of full-size matrices."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.fira import Fira

METHOD = Fira(rank=8, update_gap=3, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def update(method: Fira, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    corrected = math.sqrt(1 - method.betas[1] ** t)  # Hugging Face's AdamW adds eps before it corrects v
    decayed = 1 - method.lr * method.weight_decay
    if not weight.is_matrix:
        return (w - method.lr * adam(g, state, t, method.betas, method.eps / corrected)) * decayed
    tall = g.shape[0] >= g.shape[1]
    if (t - 1) % method.update_gap == 0:
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        state["P"] = signed((vh.T if tall else u)[:, : method.rank])
    p = state["P"]
    low = g @ p if tall else p.T @ g
    size = corrected / (1 - method.betas[0] ** t)
    step = adam(low, state, t, method.betas, method.eps / corrected) / size
    scale = step.norm(dim=int(tall), keepdim=True) / (low.norm(dim=int(tall), keepdim=True) + 1e-8)
    inside, back = (low @ p.T, step @ p.T) if tall else (p @ low, p @ step)
    rest = (g - method.scale * inside) * scale
    if "norm" in state:
        rest = rest / (max(rest.norm() / (state["norm"] + 1e-8), method.growth) / method.growth)
    state["norm"] = rest.norm()
    stepped: Tensor = w - method.lr * size * (method.scale * back + rest)
    return stepped * decayed


def beside(method: Fira) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), functools.partial(update, method))


def comparison(method: Fira, spec: str) -> Comparison:
    return Comparison(method=spec, oracle=TWIN, start=lambda: beside(method), steps=8, refreshes=3, limit=1e-9)


COMPARISONS = (
    comparison(METHOD, "fira:rank=8,update_gap=3"),
    comparison(dataclasses.replace(METHOD, scale=0.25), "fira:rank=8,update_gap=3,scale=0.25"),
)
