"""torchao's AdamW8bit: its function of one parameter, which its optimizer compiles, and its 8-bit tensors."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from fidelity.compare import Comparison
from fidelity.problem import Trainer, Weights, fed, small_model, snapshot
from fidelity.twins.adamw_8bit import METHOD


class Eager(torch.optim.Optimizer):
    """torchao's AdamW8bit without torch.compile."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {})
        self.steps = 0
        self.theirs = importlib.import_module("torchao.optim").AdamW8bit(model.parameters())

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        adam = importlib.import_module("torchao.optim.adam")
        self.steps += 1
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            for key in ("exp_avg", "exp_avg_sq"):
                if key not in state:
                    state[key] = self.theirs._new_buffer(p, key == "exp_avg")
            adam.single_param_adam(
                p.detach(),
                p.grad,
                torch.tensor(float(self.steps)),
                state["exp_avg"],
                state["exp_avg_sq"],
                None,
                torch.tensor(METHOD.lr),
                *METHOD.betas,
                METHOD.weight_decay,
                METHOD.eps,
                True,
                False,
            )


def start() -> tuple[Weights, Trainer, Trainer]:
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    return snapshot(ours), fed(ours, METHOD.prepare(ours)), fed(theirs, Eager(theirs))


COMPARISONS = (
    Comparison(method="adamw-8bit", oracle="torchao", start=start, steps=12, dtype="fp32", limit=1e-3,
               note="without torch.compile; a rounding apart may flip a code"),
)  # fmt: skip
