"""An oracle for methods that train a weight through other tensors: the plain model, given each weight whole.

The weight is made by a plain function of its parts (W + s B A of a LoRA layer), autograd goes back through it, and
AdamW as its paper prints it moves the parts. Nothing of memprof's layers or optimizers is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fidelity.problem import VOCABULARY, Trainer, Weights, adam
from memprof.batches import synthetic_batch
from memprof.method import named_weights

Parts = dict[str, Tensor]
"""What stands for one weight: those that require a gradient are trained"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTwin:
    """The plain model `model`, its matrices made of parts.

    `begin(name, W)` gives a matrix's parts, `dense(parts)` the matrix, and `after(name, parts, states, t)` may change
    parts and Adam states after update t (from 1). `factor(t)` multiplies the learning rate in update t.
    """

    model: nn.Module
    begin: Callable[[str, Tensor], Parts]
    dense: Callable[[Parts], Tensor]
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    after: Callable[[str, Parts, dict[str, dict[str, Any]], int], None] = lambda name, parts, states, t: None
    factor: Callable[[int], float] = lambda t: 1.0
    parts: dict[str, Parts] = field(default_factory=dict)
    states: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def trainer(self) -> Trainer:
        for weight, p in named_weights(self.model):
            w = p.detach().clone()
            self.parts[weight.name] = self.begin(weight.name, w) if weight.is_matrix else {"W": w.requires_grad_()}
            self.states[weight.name] = {}
        return self.step

    def step(self, number: int) -> Weights:
        torch.manual_seed(number)
        batch = synthetic_batch(4, 16, VOCABULARY, torch.device("cpu"))
        functional_call(self.model, self.weights(), batch).backward()
        with torch.no_grad():
            for name, parts in self.parts.items():
                self.update(parts, self.states[name], number + 1)
                if name in self.matrices:
                    self.after(name, parts, self.states[name], number + 1)
            return {name: w.detach().clone() for name, w in self.weights().items()}

    @property
    def matrices(self) -> set[str]:
        return {weight.name for weight, _ in named_weights(self.model) if weight.is_matrix}

    def weights(self) -> Weights:
        matrices = self.matrices
        return {name: self.dense(parts) if name in matrices else parts["W"] for name, parts in self.parts.items()}

    def update(self, parts: Parts, states: dict[str, dict[str, Any]], t: int) -> None:
        """AdamW, algorithm 2 of arXiv:1711.05101, on every part that is trained; each counts its own steps."""
        lr = self.lr * self.factor(t)
        for key, p in parts.items():
            if p.grad is not None:
                state = states.setdefault(key, {})
                state["t"] = state.get("t", 0) + 1
                step = adam(p.grad, state, state["t"], self.betas, self.eps)
                p.mul_(1 - lr * self.weight_decay).sub_(lr * step)
                p.grad = None
