"""ReLoRA, section 3 of arXiv:2307.05695: LoRA merged into W and begun afresh; and what the methods after it share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.relora import ReLoRA, Restarting

SCALE = 16.0 / 8
COMMON: dict[str, Any] = {"rank": 8, "alpha": 16.0, "lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1,
                          "reset_every": 3, "restart_warmup": 2}  # fmt: skip
SETTINGS: dict[str, Any] = {**COMMON, "eps": 1e-6, "prune": 1.0}
METHOD, WARM = ReLoRA(**SETTINGS), ReLoRA(**SETTINGS, warm_start=2)
MAGNITUDE = ReLoRA(**COMMON, eps=1e-3, prune=0.8, prune_by="magnitude")
"""its eps is what keeps an entry small whose first moment survives the pruning, but not the second"""
Adapt = Callable[[Tensor, Tensor], Parts]
"""(W, the random A that our layer has at that time) -> the parts that begin anew"""


def dense(parts: Parts) -> Tensor:
    return parts["W"] + SCALE * parts["B"] @ parts["A"] if "A" in parts else parts["W"]


def adapted(w: Tensor, a: Tensor) -> Parts:
    return {"W": w, "A": a.requires_grad_(), "B": w.new_zeros(len(w), len(a)).requires_grad_()}


def climb(method: Restarting, t: int) -> float:
    """The learning rate's factor in update t: linear after each merge, and after the switch of a warm start."""
    since_switch = t - 1 - method.warm_start  # updates with adapters before this one
    restarted = since_switch >= method.reset_every or (method.warm_start > 0 and since_switch >= 0)
    return min(1.0, (since_switch % method.reset_every + 1) / method.restart_warmup) if restarted else 1.0


def pruned(moment: Tensor, method: Restarting) -> Tensor:
    if method.prune == 1:
        return moment * 0
    size = moment.abs()
    return torch.where(size > size.flatten().quantile(method.prune), moment, 0)


def beside(
    method: Restarting, adapt: Adapt = adapted, dense: Callable[[Parts], Tensor] = dense
) -> tuple[Weights, Trainer, Trainer]:
    """Ours and the twin, which steps after ours and so finds there the A that ours has drawn."""
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    optimizer = method.prepare(ours)

    def anew(name: str, w: Tensor) -> Parts:
        a = ours.get_parameter(name.replace(".weight", ".lora_A.weight")).detach().clone()
        return adapt(w.detach(), a)

    def begin(name: str, w: Tensor) -> Parts:
        return {"W": w.requires_grad_()} if method.warm_start else anew(name, w)

    def after(name: str, parts: Parts, states: dict[str, dict[str, Any]], t: int) -> None:
        if t == method.warm_start:
            states.clear()
            parts.update(anew(name, parts["W"]))
        elif t > method.warm_start and (t - method.warm_start) % method.reset_every == 0:
            parts.update(anew(name, dense(parts)))
            for state in states.values():
                state["m"], state["v"] = pruned(state["m"], method), pruned(state["v"], method)

    twin = DenseTwin(
        model=plain,
        begin=begin,
        dense=dense,
        after=after,
        factor=lambda t: climb(method, t),
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
    )
    return before, trained(ours, optimizer, list(before)), twin.trainer()


COMPARISONS = (
    Comparison(
        method="relora:rank=8,alpha=16,reset_every=3,prune=1",
        oracle=TWIN,
        start=lambda: beside(METHOD),
        steps=8,
        refreshes=2,
        limit=1e-9,
    ),
    Comparison(
        method="relora:rank=8,alpha=16,reset_every=3,prune=0.8,prune_by=magnitude",
        oracle=TWIN,
        start=lambda: beside(MAGNITUDE),
        steps=8,
        refreshes=2,
        limit=1e-9,
    ),
    Comparison(
        method="relora:rank=8,alpha=16,reset_every=3,prune=1,warm_start=2",
        oracle=TWIN,
        start=lambda: beside(WARM),
        steps=10,
        refreshes=2,
        limit=1e-9,
        note="AdamW on full weights for two steps",
    ),
)
