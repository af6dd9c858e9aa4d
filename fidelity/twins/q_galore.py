"""Q-GaLore, sections 3.2 to 3.4 of arXiv:2407.08296: integers by groups of 256, laziness, stochastic rounding.

The inner optimizer is AdamW with moments as they are. Random numbers are those of ours: one for each element of the
matrices in the model's order, from a generator of the step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, gradients, signed, small_model, snapshot
from memprof.method import named_weights
from memprof.methods.parts.integer_linear import IntegerLinear
from memprof.methods.parts.q_galore_optimizer import step_seed
from memprof.methods.q_galore import QGaLore

METHOD = QGaLore(
    rank=8, update_gap=2, queue_size=2, cos_threshold=-1, inner="adamw", betas=(0.8, 0.95), weight_decay=0.1
)
STEPS = 11
REFRESHES = 4
"""at steps 0, 2 and 4, which fills the queue and doubles the gap; at 8, which doubles it again"""
GROUP = 256


def quantised(x: Tensor, bits: int, draws: torch.Generator | None = None) -> Tensor:
    """x as it is read back from integers: rounded to the nearest code or, with `draws`, to one of its two nearest."""
    groups = x.reshape(-1, GROUP)
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    zero = -(low / scale).round()
    y = groups / scale
    if draws is None:
        rounded = y.round()
    else:
        rounded = y.floor() + (torch.rand(y.shape, dtype=y.dtype, generator=draws) < y - y.floor())
    read: Tensor = ((rounded + zero).clamp(0, 2**bits - 1) - zero) * scale
    return read.reshape(x.shape)


def refresh(method: QGaLore, g: Tensor, state: dict[str, Any], t: int) -> None:
    gap = state.setdefault("gap", method.update_gap)
    if (t - 1) % gap:
        return
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    p = signed((vh.T if g.shape[0] >= g.shape[1] else u)[:, : method.rank])
    if "first" in state:
        cosines = state.setdefault("cosines", [])
        cosines.append(float(p[:, 0] @ state["first"]))
        last = cosines[-method.queue_size :]
        if len(last) == method.queue_size and sum(last) / len(last) >= method.cos_threshold:
            state["gap"] = int(gap * method.gamma)
    state["first"] = p[:, 0]
    if method.proj_bits < 16:  # a basis lies in memory as it multiplies: (R, N) from the right, (M, R) from the left
        tall = g.shape[0] >= g.shape[1]
        p = quantised(p.T.contiguous(), method.proj_bits).T if tall else quantised(p.contiguous(), method.proj_bits)
    state["P"] = p


def trainer(method: QGaLore, model: nn.Module) -> Trainer:
    """The equations on a copy of the weights of `model`, on the given gradients."""
    weights = snapshot(model)
    pairs = [weight for weight, _ in named_weights(model)]
    states: dict[str, dict[str, Any]] = {weight.name: {} for weight in pairs}
    integers = method.weight_bits < 16
    for weight in pairs:
        if weight.is_matrix and integers:
            weights[weight.name] = quantised(weights[weight.name], method.weight_bits)

    def step(number: int) -> Weights:
        given, draws = gradients(model, number), torch.Generator().manual_seed(step_seed(method.seed, number))
        for weight in pairs:
            w, g, state, t = weights[weight.name], given[weight.name], states[weight.name], number + 1
            if weight.is_matrix:
                refresh(method, g, state, t)
                p, tall = state["P"], g.shape[0] >= g.shape[1]
                n = adam(g @ p if tall else p.T @ g, state, t, method.betas, method.eps)
                stepped = w - method.lr * method.scale * (n @ p.T if tall else p @ n)
            else:
                stepped = w - method.lr * adam(g, state, t, method.betas, method.eps)
            stepped = stepped * (1 - method.lr * method.weight_decay)
            rounds = weight.is_matrix and integers
            weights[weight.name] = quantised(stepped, method.weight_bits, draws) if rounds else stepped
        return dict(weights)

    return step


def fed_integers(model: nn.Module, optimizer: torch.optim.Optimizer) -> Trainer:
    """Ours on the given gradients, which an integer layer takes on its anchor."""
    plain = {"anchor": "weight"}

    def step(number: int) -> Weights:
        given = gradients(model, number)
        for weight, p in named_weights(model):
            p.grad = given[weight.name].clone()
        optimizer.step()
        optimizer.zero_grad()
        weights = {}
        for name, p in model.named_parameters():
            path, _, leaf = name.rpartition(".")
            layer = model.get_submodule(path)
            read = layer.weight() if isinstance(layer, IntegerLinear) else p
            weights[f"{path}.{plain.get(leaf, leaf)}"] = read.detach().clone()
        return weights

    return step


def comparison(limit: float, **fields: Any) -> Comparison:
    method = dataclasses.replace(METHOD, **fields)

    def start() -> tuple[Weights, Trainer, Trainer]:
        model = small_model()
        before = snapshot(model)
        return before, fed_integers(model, method.prepare(model)), trainer(method, small_model())

    spec = ",".join(f"{key}={value}" for key, value in fields.items())
    name = f"q-galore:rank=8,update_gap=2,queue_size=2,cos_threshold=-1,inner=adamw,{spec}"
    return Comparison(method=name, oracle=TWIN, start=start, steps=STEPS, refreshes=REFRESHES, limit=limit)


COMPARISONS = (
    comparison(1e-9, weight_bits=16, proj_bits=16),
    comparison(1e-9, weight_bits=16, proj_bits=8),
    comparison(1e-9, weight_bits=16, proj_bits=4),
    comparison(1e-9, weight_bits=8, proj_bits=4),
)
