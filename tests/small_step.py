"""A small model, a step of it, and the ledger that watched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from memprof.ledger import Ledger

PARAMS = 4 * (10 * 20 + 20 + 20 * 5 + 5)
"""bytes of what `small` trains"""


def booked(model: nn.Module, optimizer: torch.optim.Optimizer | None, work: Callable[[], object]) -> Ledger:
    with Ledger(model, optimizer) as ledger:
        work()
    return ledger


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
