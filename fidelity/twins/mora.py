"""MoRA, equations 5, 6 and 9 of arXiv:2405.12130, and ReMoRA: W + decompress(S compress(.)), the maps as matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, small_model, snapshot, trained
from memprof.methods.mora import MoRA
from memprof.methods.remora import ReMoRA

RANK = 8
COMMON: dict[str, Any] = {"rank": RANK, "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
RESTART: dict[str, Any] = {**COMMON, "eps": 1e-3, "reset_every": 3, "restart_warmup": 2}
"""its eps keeps Adam from making much of what is all but zero, in more steps"""


def grouped(length: int, groups: int, cyclic: bool) -> Tensor:
    """(length, groups): 1 where an element belongs to a group; contiguous groups, larger first, or one round after the
    other."""
    member = torch.zeros(length, groups, dtype=torch.float64)
    if cyclic:
        member[torch.arange(length), torch.arange(length) % groups] = 1
    else:
        begin = 0
        for group, size in enumerate(torch.arange(length).tensor_split(groups)):
            member[begin : begin + len(size), group] = 1
            begin += len(size)
    return member


def sharing(shape: torch.Size, s: Tensor, kind: int) -> Tensor:
    rows, columns, side = *shape, len(s)
    inputs_cyclic, outputs_cyclic = kind in (1, 4), kind in (1, 3)
    compress = grouped(columns, side, cyclic=inputs_cyclic).T
    if inputs_cyclic:  # x goes on from its start to a multiple of Q
        length = -(-columns // side) * side
        compress = grouped(length, side, cyclic=True).T @ grouped(length, columns, cyclic=True)
    return grouped(rows, side, outputs_cyclic) @ s @ compress


def rotation(shape: torch.Size, s: Tensor) -> Tensor:
    rows, columns, side = *shape, len(s)
    count = -(-columns // side)
    rate = 10_000.0 ** (-torch.arange(0, side, 2, dtype=torch.float64) / side)
    blocks = []
    for place in range(count):
        cos, sin = torch.diag((place * rate).cos()), torch.diag((place * rate).sin())
        blocks.append(s @ torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)]))
    whole = torch.block_diag(*blocks)
    out: Tensor = grouped(rows, count * side, True) @ whole @ grouped(count * side, columns, True)
    return out


def dense(parts: Parts) -> Tensor:
    w, s, kind = parts["W"], parts["S"], int(parts["kind"])
    return w + (sharing(w.shape, s, kind) if kind else rotation(w.shape, s))


def begin(w: Tensor, kind: int) -> Parts:
    side = int((sum(w.shape) * RANK) ** 0.5 + 0.5)
    side -= side % 2 if kind == 0 else 0
    return {"W": w, "S": w.new_zeros(side, side).requires_grad_(), "kind": torch.tensor(kind)}


def climb(t: int) -> float:
    since = t - 1
    return min(1.0, (since % 3 + 1) / 2) if since >= 3 else 1.0


def beside(method: MoRA) -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    before = snapshot(plain)
    first = 0 if method.grouping == "rotation" else 1
    restarts = isinstance(method, ReMoRA)

    def after(name: str, parts: Parts, states: dict[str, dict[str, Any]], t: int) -> None:
        if restarts and t % 3 == 0:
            kind = int(parts["kind"])
            parts.update(begin(dense(parts).detach(), kind and kind % 4 + 1))
            states.clear()

    twin = DenseTwin(
        model=plain,
        begin=lambda name, w: begin(w, first),
        dense=dense,
        after=after,
        factor=climb if restarts else lambda t: 1.0,
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
    )
    return before, trained(ours, method.prepare(ours), list(before)), twin.trainer()


COMPARISONS = (
    Comparison(method="mora:rank=8,grouping=rotation", oracle=TWIN, start=lambda: beside(MoRA(**COMMON)), steps=8,
               limit=1e-9),
    Comparison(method="mora:rank=8,grouping=sharing", oracle=TWIN,
               start=lambda: beside(MoRA(**COMMON, grouping="sharing")), steps=8, limit=1e-9),
    Comparison(method="remora:rank=8,reset_every=3", oracle=TWIN, start=lambda: beside(ReMoRA(**RESTART)),
               steps=16, refreshes=5, limit=1e-9),
    Comparison(method="remora:rank=8,reset_every=3,grouping=rotation", oracle=TWIN,
               start=lambda: beside(ReMoRA(**RESTART, grouping="rotation")), steps=8, refreshes=2, limit=1e-9),
)  # fmt: skip
