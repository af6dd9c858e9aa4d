"""AdamW whose moments are rounded after each step to a dynamic map of 256 numbers, block by block: arXiv:2110.02861.

Ours computes in fp32 whatever the weights, so both sides are in fp32; a rounding apart may then flip a code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fidelity.compare import TWIN, Comparison
from fidelity.problem import Trainer, Weights, adam, fed, small_model, snapshot, twin
from memprof.method import Weight
from memprof.methods.adamw_8bit import AdamW8bit

METHOD = AdamW8bit(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)


def numbers(signed: bool) -> Tensor:
    """Seven decades, of 1, 2, ... 64 cells below 1e-6, 1e-5, ... 1 (twice as many unsigned); the centres, 0 and 1."""
    map_ = {0.0, 1.0}
    for decade in range(7):
        top, cells = 10.0 ** (decade - 6), 2**decade * (1 if signed else 2)
        for cell in range(cells):
            centre = top * (0.1 + 0.9 * (cell + 0.5) / cells)
            map_ |= {centre, -centre} if signed else {centre}
    return torch.tensor(sorted(map_), dtype=torch.float64)


def rounded(moment: Tensor, signed: bool) -> Tensor:
    """Each element to the nearest of the map's numbers times the largest magnitude of its block of 256."""
    flat, map_ = moment.flatten(), numbers(signed)
    blocks = F.pad(flat, (0, -flat.numel() % 256)).view(-1, 256)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    nearest = torch.stack([(row[:, None] - map_).abs().argmin(dim=1) for row in blocks / largest])
    return (map_[nearest] * largest).flatten()[: flat.numel()].view_as(moment)


def update(weight: Weight, w: Tensor, g: Tensor, state: dict[str, Any], t: int) -> Tensor:
    w, g = w.double(), g.double()
    stepped = w - METHOD.lr * (adam(g, state, t, METHOD.betas, METHOD.eps) + METHOD.weight_decay * w)
    if g.numel() >= 4096:
        state["m"], state["v"] = rounded(state["m"], signed=True), rounded(state["v"], signed=False)
    return stepped


def start() -> tuple[Weights, Trainer, Trainer]:
    model = small_model(torch.float32)
    return snapshot(model), fed(model, METHOD.prepare(model)), twin(small_model(torch.float32), update)


COMPARISONS = (
    Comparison(method="adamw-8bit", oracle=TWIN, start=start, steps=6, dtype="fp32", limit=1e-3,
               note="a rounding apart may flip a code; AdamW itself drifts by 1e-2"),
)  # fmt: skip
