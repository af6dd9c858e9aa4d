"""Grass, algorithm 1 of arXiv:2406.17660: rows of the gradient by their norms, and Adam on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import VOCABULARY, Trainer, Weights, adam, effective_weights, small_model, snapshot, trained
from memprof.batches import synthetic_batch
from memprof.method import Weight, named_weights
from memprof.methods.grass import Grass

RANK, MATRICES = 8, 7
METHOD = Grass(rank=RANK, update_gap=3, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def projector(g: Tensor, choice: str, seed: int) -> Tensor:
    """P (M, R), whose column j has rho_j in the row that was chosen."""
    squares = g.pow(2).sum(dim=1)
    if choice == "top":
        rows, rho = squares.argsort(descending=True)[:RANK], torch.ones(RANK, dtype=g.dtype)
    else:
        q, draws = squares / squares.sum(), torch.Generator().manual_seed(seed)
        if choice == "replacement":
            points = torch.rand(RANK, generator=draws, dtype=g.dtype)
            rows = (q.cumsum(0)[None, :] <= points[:, None]).sum(dim=1)
        else:
            races = torch.zeros_like(q).exponential_(generator=draws)
            rows = (races / q).argsort()[:RANK]
        rho = 1 / (RANK * q[rows]).sqrt()
    p = g.new_zeros(g.shape[0], RANK)
    p[rows, torch.arange(RANK)] = rho
    return p


def update(method: Grass, place: int, weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    decayed = w * (1 - method.lr * method.weight_decay)
    if not weight.is_matrix:
        return decayed - method.lr * adam(g, state, t, method.betas, method.eps)
    if (t - 1) % method.update_gap == 0:
        if method.reset:
            state.clear()
            state["from"] = t - 1
        first = (method.seed * 1_000_003 + place) % 2**32
        state["P"] = projector(g, method.choice, first + MATRICES * ((t - 1) // method.update_gap))
    p = state["P"]
    step = adam(p.T @ g, state, t - state.get("from", 0), method.betas, method.eps)
    stepped: Tensor = decayed - method.lr * method.scale * (p @ step)
    return stepped


def oracle(method: Grass) -> Trainer:
    """The plain model, whose full gradients it takes."""
    model = small_model()
    states: dict[str, dict[str, Any]] = {weight.name: {} for weight, _ in named_weights(model)}
    places = {name: i for i, name in enumerate(w.name for w, _ in named_weights(model) if w.is_matrix)}

    def step(number: int) -> Weights:
        torch.manual_seed(number)
        model(*synthetic_batch(4, 16, VOCABULARY, torch.device("cpu"))).backward()
        for weight, p in named_weights(model):
            assert p.grad is not None
            state = states[weight.name]
            p.data = update(method, places.get(weight.name, 0), weight, p.data, p.grad, state, number + 1)
            p.grad = None
        return snapshot(model)

    return step


def beside(method: Grass) -> tuple[Weights, Trainer, Trainer]:
    model = small_model()
    before = snapshot(model)
    optimizer = method.prepare(model)
    return effective_weights(model, list(before)), trained(model, optimizer, list(before)), oracle(method)


def comparison(spec: str, **fields: Any) -> Comparison:
    method = dataclasses.replace(METHOD, **fields)
    spec = f"grass:rank=8,update_gap=3{spec}"
    return Comparison(method=spec, oracle=TWIN, start=lambda: beside(method), steps=8, refreshes=3, limit=1e-11)


COMPARISONS = (
    comparison(""),
    comparison(",reset=false", reset=False),
    comparison(",choice=replacement", choice="replacement"),
    comparison(",choice=no-replacement,seed=5000", choice="no-replacement", seed=5000),
)
