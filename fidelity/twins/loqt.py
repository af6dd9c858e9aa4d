"""LoQT, algorithms 1 and 2 of arXiv:2405.16528 as its code runs them: W and P in NF4, one factor trained by AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.dense import DenseTwin, Parts
from fidelity.problem import Trainer, Weights, effective_weights, signed, small_model, snapshot, trained
from memprof.methods.loqt import LoQT
from memprof.methods.parts.nf4 import NUMBERS

ALPHA, RANK, UPDATES = 0.5, 8, (0, 2, 5, 8)
METHOD = LoQT(rank=RANK, update_gap=2, psi=1.2, alpha=ALPHA, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def quantised(x: Tensor) -> Tensor:
    """NF4 and back: blocks of 64 by their largest magnitude, each element the nearest of 16 numbers, in fp32."""
    blocks = x.reshape(-1, 64).float()
    largest = blocks.abs().amax(dim=1, keepdim=True)
    near = (blocks / largest)[:, :, None].sub(torch.tensor(NUMBERS)).abs().argmin(dim=2)
    return (torch.tensor(NUMBERS)[near] * largest).to(x.dtype).view(x.shape)


def product(projection: Tensor, factor: Tensor, tall: bool) -> Tensor:
    return ALPHA * (factor @ projection if tall else projection @ factor)


def merged(parts: Parts) -> Tensor:
    return parts["Q"] + product(parts["P"], parts["F"], parts["Q"].shape[0] >= parts["Q"].shape[1])


def dense(parts: Parts) -> Tensor:
    """In an update step the gradient is that of the merged weight, quantised."""
    return parts["Z"] if "Z" in parts and torch.is_grad_enabled() else merged(parts)


def new_subspace(v: Tensor, g: Tensor, iterations: int) -> Parts:
    tall = g.shape[0] >= g.shape[1]
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    p = quantised(signed(vh.T[:, :RANK]).T.contiguous() if tall else signed(u[:, :RANK]).contiguous())
    if not iterations:
        q = quantised(v)
        return {"Q": q, "P": p, "F": (v @ p.T if tall else p.T @ v).zero_().requires_grad_()}
    least, best, current = float("inf"), {}, v
    for _ in range(iterations):
        q = quantised(current)
        f = ((v - q) @ torch.linalg.pinv(p) if tall else torch.linalg.pinv(p) @ (v - q)) / ALPHA
        error = float((v - q - product(p, f, tall)).norm())
        if error < least:
            least, best = error, {"Q": q, "P": p, "F": f.requires_grad_()}
        current = v - product(p, f.detach(), tall)
    return best


def beside(method: LoQT) -> tuple[Weights, Trainer, Trainer]:
    ours, plain = small_model(), small_model()
    names = list(snapshot(plain))
    optimizer = method.prepare(ours)
    gradients: dict[str, Tensor] = {}

    def awaiting(name: str, parts: Parts) -> None:
        """An update step comes: what stands for the weight is no part of the method, and its gradient is caught."""
        z = quantised(merged(parts)).detach().requires_grad_()
        z.register_hook(lambda g: gradients.update({name: g}))
        parts["Z"] = z

    def begin(name: str, w: Tensor) -> Parts:
        shape = w.shape
        tall = shape[0] >= shape[1]
        zeros = {"P": w.new_zeros(RANK, shape[1]) if tall else w.new_zeros(shape[0], RANK),
                 "F": w.new_zeros(shape[0], RANK) if tall else w.new_zeros(RANK, shape[1])}  # fmt: skip
        parts = {"Q": quantised(w), **zeros}
        awaiting(name, parts)
        return parts

    def after(name: str, parts: Parts, states: dict[str, dict[str, Any]], t: int) -> None:
        if t - 1 in UPDATES:
            states.pop("Z")
            del parts["Z"]
            parts.update(new_subspace(merged(parts).detach(), gradients[name], method.iterations))
        if t in UPDATES:
            with torch.enable_grad():
                awaiting(name, parts)

    twin = DenseTwin(
        model=plain,
        begin=begin,
        dense=dense,
        after=after,
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
    )
    return effective_weights(ours, names), trained(ours, optimizer, names), twin.trainer()


COMPARISONS = (
    Comparison(method="loqt:rank=8,update_gap=2", oracle=TWIN, start=lambda: beside(METHOD), steps=10, refreshes=4,
               limit=1e-9),
)  # fmt: skip
