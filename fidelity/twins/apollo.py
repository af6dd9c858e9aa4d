"""APOLLO, algorithm 1 of arXiv:2412.05270, with a random or a singular subspace, scales by channel or by matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, signed, small_model, snapshot, twin
from memprof.method import Weight, named_weights
from memprof.methods.apollo import Apollo, ApolloMini

METHOD = Apollo(rank=8, update_gap=3, scale=4.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
MINI = ApolloMini(update_gap=3, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


@functools.cache
def first_seeds() -> dict[str, int]:
    """A parameter's place in the optimizer, from 1: embedding, norms and head come before the matrices."""
    weights = [weight for weight, _ in named_weights(small_model())]
    ordered = sorted(weights, key=lambda weight: weight.is_matrix)
    return {weight.name: place for place, weight in enumerate(ordered, start=1)}


def successor(seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    return int(torch.randint(0, 2**63 - 1, (15,), generator=generator)[-1])


def projector(method: Apollo, weight: Weight, g: Tensor, state: dict[str, Any]) -> Tensor:
    """(S, R): of a tall matrix right singular vectors, of a wide one left ones; or Gaussian, of variance 1 / R."""
    assert method.rank is not None
    tall = g.shape[0] >= g.shape[1]
    if method.projection == "svd":
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        return signed((vh.T if tall else u)[:, : method.rank])
    seed = successor(state["seed"]) if "seed" in state else first_seeds()[weight.name]
    state["seed"] = seed
    shape = (method.rank, g.shape[1]) if tall else (g.shape[0], method.rank)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=g.dtype) / math.sqrt(method.rank)
    return drawn.T if tall else drawn


def update(method: Apollo, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    corrected = math.sqrt(1 - method.betas[1] ** t)  # Hugging Face's AdamW adds eps before it corrects v
    decayed = 1 - method.lr * method.weight_decay
    if not weight.is_matrix:
        return (w - method.lr * adam(g, state, t, method.betas, method.eps / corrected)) * decayed
    tall = g.shape[0] >= g.shape[1]
    if (t - 1) % method.update_gap == 0:
        state["P"] = projector(method, weight, g, state)
    low = g @ state["P"] if tall else state["P"].T @ g
    size = corrected / (1 - method.betas[0] ** t)
    step = adam(low, state, t, method.betas, method.eps / corrected) / size
    if method.scale_type == "tensor":
        scaled = g * (step.norm() / (low.norm() + 1e-8))
    else:
        scaled = g * (step.norm(dim=int(tall), keepdim=True) / (low.norm(dim=int(tall), keepdim=True) + 1e-8))
    if "norm" in state:
        scaled = scaled / (max(scaled.norm() / (state["norm"] + 1e-8), method.growth) / method.growth)
    state["norm"] = scaled.norm()
    stepped: Tensor = w - method.lr * size * math.sqrt(method.scale) * scaled
    return stepped * decayed


def beside(method: Apollo) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    return snapshot(model), fed(model, method.prepare(model)), twin(small_model(), functools.partial(update, method))


def comparison(method: Apollo, spec: str) -> Comparison:
    return Comparison(method=spec, oracle=TWIN, start=lambda: beside(method), steps=8, refreshes=3, limit=1e-11)


COMPARISONS = (
    comparison(METHOD, "apollo:rank=8,update_gap=3"),
    comparison(dataclasses.replace(METHOD, store_projector=False), "apollo:rank=8,update_gap=3,store_projector=false"),
    comparison(dataclasses.replace(METHOD, scale_type="tensor"), "apollo:rank=8,update_gap=3,scale_type=tensor"),
    comparison(dataclasses.replace(METHOD, projection="svd"), "apollo:rank=8,update_gap=3,projection=svd"),
    comparison(MINI, "apollo-mini:update_gap=3"),
)
