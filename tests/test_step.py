"""What the training step does between backward and update, seen from the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memprof.api import plan
from memprof.scenario import Scenario
from memprof.step import prepare, train_step

CPU = torch.device("cpu")


def scenario(method: str, **fields: Any) -> Scenario:
    small: dict[str, Any] = {"num_layers": 1, "vocab_size": 64, "batch_size": 2, "seq_len": 8}
    (case,) = plan(["9m"], [method], dtype="fp32", kernels="cpu", **small, **fields)
    return case


def moved(method: str, **fields: Any) -> list[Tensor]:
    """By how much one step moves each weight that it trains."""
    case = scenario(method, **fields)
    model, optimizer = prepare(case, CPU)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    train_step(model, optimizer, case)
    return [p.detach() - old for p, old in zip(trained, before, strict=True)]


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.flatten().double() for t in tensors]).norm())


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_clipped_step_of_plain_descent_is_as_long_as_the_norm_allows(accumulation: int) -> None:
    """SGD without momentum moves the weights by lr times the gradient, of all micro-batches together."""
    sgd = "sgd:momentum=0,lr=1"
    free, clipped = (moved(sgd, accumulation=accumulation, clip_grad_norm=clip) for clip in (None, 1e-3))
    assert norm(free) > 0.1
    assert norm(clipped) == pytest.approx(1e-3, rel=1e-3)
    for step, shorter in zip(free, clipped, strict=True):
        assert torch.allclose(shorter / norm(clipped), step / norm(free), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("method", ["adamw", "lora", "grass", "q-galore"])
def test_a_norm_that_no_gradient_reaches_changes_nothing(method: str) -> None:
    free, clipped = moved(method), moved(method, clip_grad_norm=1e6)
    assert all(torch.equal(one, other) for one, other in zip(free, clipped, strict=True))


@pytest.mark.parametrize("method", ["low-rank", "grass", "q-galore"])
def test_gradients_are_clipped_wherever_a_method_has_autograd_leave_them(method: str) -> None:
    """Factors and anchors are parameters like others: the optimizer finds the norm that was asked for."""
    seen: list[float] = []
    case = scenario(method, clip_grad_norm=1e-2)
    model, optimizer = prepare(case, CPU)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer.register_step_pre_hook(lambda *_: seen.append(norm([p.grad for p in trained if p.grad is not None])))
    train_step(model, optimizer, case)
    assert seen == [pytest.approx(1e-2, rel=1e-3)]
