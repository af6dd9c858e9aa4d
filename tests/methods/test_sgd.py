"""SGD against torch.optim.SGD, and by hand; in place on every device and dtype."""

from typing import Any

import pytest
import torch
from torch import nn

from memprof.errors import MemprofError
from memprof.method import named_weights
from memprof.methods.sgd import SGD, sgd_
from tests.methods.models import tiny

SETTINGS: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.0},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.0, "weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
]


def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for seed in range(steps):
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("fields", SETTINGS)
def test_fp32_is_torchs_fused_sgd_bit_for_bit(fields: dict[str, Any]) -> None:
    ours, theirs = tiny(), tiny()
    run(ours, SGD(lr=0.1, **fields).prepare(ours))
    run(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, fused=True, **fields))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fields", SETTINGS)
def test_below_fp32_a_cpu_follows_fp32_to_a_few_roundings(fields: dict[str, Any], dtype: torch.dtype) -> None:
    """torch's fused kernel does not: it leaves whole vectors of the weights unchanged."""
    ours, exact = tiny(dtype), tiny(dtype).float()
    start = [p.detach().clone() for p in exact.parameters()]
    run(ours, SGD(lr=0.1, **fields).prepare(ours))
    run(exact, torch.optim.SGD(exact.parameters(), lr=0.1, **fields))
    for p, q, origin in zip(ours.parameters(), exact.parameters(), start, strict=True):
        drift = ((p.float() - q).norm() / (q - origin).norm()).item()
        assert drift < 10 * torch.finfo(dtype).eps, f"{drift:.1e}"


@pytest.mark.parametrize("fields", SETTINGS)
def test_calls_in_place_are_the_fused_kernels_step(fields: dict[str, Any]) -> None:
    options = {"lr": 0.1, "nesterov": False, "weight_decay": 0.0, **fields}
    w, g, m = (torch.randn(50, dtype=torch.float64) for _ in range(3))
    p = nn.Parameter(w.clone())
    p.grad = g
    reference = torch.optim.SGD([p], lr=0.1, **fields)
    if fields["momentum"]:
        reference.state[p]["momentum_buffer"] = m.clone()
    reference.step()
    sgd_([w], [g], [m] if fields["momentum"] else [], **options)
    torch.testing.assert_close(w, p.detach(), rtol=1e-14, atol=1e-15)
    if fields["momentum"]:
        torch.testing.assert_close(m, reference.state[p]["momentum_buffer"], rtol=1e-14, atol=1e-15)


def test_two_steps_by_hand() -> None:
    """m = 4, then 0.5 * 4 + 2 = 4; w = 1 - 0.1 * 4 - 0.1 * 4."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = SGD(lr=0.1, momentum=0.5).prepare(layer)
    for gradient in (4.0, 2.0):
        layer.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    assert layer.weight.item() == pytest.approx(0.2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_torchs_and_the_formula_is_their_bytes(dtype: torch.dtype, momentum: float) -> None:
    model = tiny(dtype)
    method = SGD(momentum=momentum)
    optimizer = method.prepare(model)
    run(model, optimizer, 1)
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        assert list(state) == (["momentum_buffer"] if momentum else [])
        assert sum(t.nbytes for t in state.values()) == method.formula(weight).optimizer_state


def test_torch_goes_on_from_our_state_dict() -> None:
    ours, theirs, straight = tiny(), tiny(), tiny()
    first = SGD(lr=0.1).prepare(ours)
    run(ours, first, 3)
    theirs.load_state_dict(ours.state_dict())
    second = torch.optim.SGD(theirs.parameters(), lr=1.0, momentum=0.5, fused=True)
    defaults = second.param_groups[0]
    second.load_state_dict(first.state_dict())
    second.param_groups[0] = {**defaults, **second.param_groups[0]}
    run(theirs, second, 2)
    optimizer = SGD(lr=0.1).prepare(straight)
    run(straight, optimizer, 3)
    run(straight, optimizer, 2)
    for p, q in zip(straight.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(MemprofError, match="sgd: nesterov=true needs a momentum above 0"):
        SGD(momentum=0.0, nesterov=True)
