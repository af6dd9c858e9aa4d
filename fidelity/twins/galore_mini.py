"""GaLore-mini, sections 3 and 3.1 of its paper: the three approaches, with Adam-mini's blocks and Q-GaLore's gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import VOCABULARY, Trainer, Weights, fed, signed, snapshot, twin
from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import Role, Weight
from memprof.methods.galore_mini import GaLoreMini

METHOD = GaLoreMini(rank=8, update_gap=2, queue_size=2, cos_threshold=-1, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
STEPS = 13
REFRESHES = 4
"""at steps 0, 2 and 4, which fills the queue and doubles the gap; at 8, which doubles it again; and not before 16"""


def grouped_model() -> LlamaForCausalLM:
    """One decoder layer, four heads of 32 for queries and two for keys, so that k (64, 128) is wide and has heads."""
    torch.manual_seed(0)
    return build_model("9m", dtype=torch.float64, num_layers=1, vocab_size=VOCABULARY, num_key_value_heads=2)


def block_means(squares: Tensor, blocks: int) -> Tensor:
    """Each row's block mean, (rows, 1)."""
    means = squares.reshape(blocks, -1).mean(dim=1)
    return means.repeat_interleave(squares.shape[0] // blocks)[:, None]


def refresh(method: GaLoreMini, g: Tensor, state: dict[str, Any], t: int) -> None:
    gap = state.setdefault("gap", method.update_gap)
    if (t - 1) % gap:
        return
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    p = signed((vh.T if g.shape[0] >= g.shape[1] else u)[:, : method.rank])
    if "P" in state:
        cosines = state.setdefault("cosines", [])
        cosines.append(float(p[:, 0] @ state["P"][:, 0]))
        last = cosines[-method.queue_size :]
        if len(last) == method.queue_size and sum(last) / len(last) >= method.cos_threshold:
            state["gap"] = int(gap * method.gamma)
    state["P"] = p


def moving(state: dict[str, Any], key: str, new: Tensor, beta: float, t: int) -> Tensor:
    """The bias-corrected moving average of what came under `key`."""
    state[key] = beta * state.get(key, torch.zeros_like(new)) + (1 - beta) * new
    corrected: Tensor = state[key] / (1 - beta**t)
    return corrected


def direction(method: GaLoreMini, weight: Weight, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    refresh(method, g, state, t)
    p, tall, (beta1, beta2) = state["P"], g.shape[0] >= g.shape[1], method.betas
    heads = weight.heads if weight.role in (Role.Q, Role.K) else g.shape[0]
    low = g @ p if tall else p.T @ g
    m = moving(state, "m", low, beta1, t)
    if method.approach == 1:
        v = moving(state, "v", block_means(low**2, heads if tall else low.shape[0]), beta2, t)
        n = m / (v.sqrt() + method.eps)
    elif method.approach == 2 and not tall:
        rows = moving(state, "v", block_means(g**2, heads), beta2, t).sqrt() + method.eps
        n = m / (p.T**2 @ rows**2).sqrt()
    else:
        rows = moving(state, "v", block_means(g**2, heads), beta2, t).sqrt() + method.eps
        back: Tensor = m @ p.T if tall else p @ m
        return back / rows
    out: Tensor = n @ p.T if tall else p @ n
    return out


def update(method: GaLoreMini) -> Callable[[Weight, Tensor, Tensor, dict[str, Any], int], Tensor]:
    def step(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
        kept = w * (1 - method.lr * method.weight_decay) if w.ndim > 1 else w
        if weight.is_matrix:
            return kept - method.lr * method.scale * direction(method, weight, g, state, t)
        m = moving(state, "m", g, method.betas[0], t)
        v = moving(state, "v", block_means(g**2, g.shape[0]) if g.ndim > 1 else (g**2).mean(), method.betas[1], t)
        return kept - method.lr * m / (v.sqrt() + method.eps)

    return step


def comparison(approach: int) -> Comparison:
    method = dataclasses.replace(METHOD, approach=approach)

    def start() -> tuple[Weights, Trainer, Trainer]:
        model = grouped_model()
        return snapshot(model), fed(model, method.prepare(model)), twin(grouped_model(), update(method))

    name = f"galore-mini:approach={approach},rank=8,update_gap=2,queue_size=2,cos_threshold=-1"
    return Comparison(method=name, oracle=TWIN, start=start, steps=STEPS, refreshes=REFRESHES, limit=1e-9)


COMPARISONS = tuple(comparison(approach) for approach in (1, 2, 3))
