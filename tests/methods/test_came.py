"""CAME by hand, its states and scratch by counted bytes; `fidelity` holds it against its equations and came_pytorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from memprof.ledger import Ledger
from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.came import CAME, CAMEOptimizer

Count = Callable[[Callable[[], object]], int]
DTYPES = [torch.float32, torch.bfloat16]


def one_weight(value: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(value.clone()))
    return module


def stepped(grads: Sequence[Tensor], method: CAME) -> tuple[Tensor, CAMEOptimizer]:
    """A weight of ones after one step for each gradient."""
    module = one_weight(torch.ones_like(grads[0]))
    optimizer = method.prepare(module)
    p = next(module.parameters())
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach(), optimizer


def test_first_step_of_a_matrix_by_hand() -> None:
    """|g| of rank one, so u = sign(g) / sqrt(1 - beta2), clipped to sign(g); m = u / 10, (u - m)^2 = 0.81 everywhere,
    S = 0.81 (1 - beta3), so the step is lr * 0.1 / (0.9 sqrt(1 - beta3))."""
    grad = torch.tensor([[3.0, -4.0], [6.0, 8.0]])
    weight, optimizer = stepped([grad], CAME(lr=0.1, betas=(0.9, 0.99, 0.75)))
    torch.testing.assert_close(weight, 1 - grad.sign() * 0.1 * 0.1 / (0.9 * 0.5))
    state = next(iter(optimizer.state.values()))
    torch.testing.assert_close(state["exp_avg_res_row"], torch.full((2,), 0.25 * 0.81))


def test_a_vector_steps_by_its_first_moment() -> None:
    weight, _ = stepped([torch.tensor([5.0, -2.0])], CAME(lr=0.1))
    torch.testing.assert_close(weight, torch.tensor([0.99, 1.01]))


def test_a_row_whose_updates_turn_about_is_less_steady() -> None:
    turning = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    _, optimizer = stepped([torch.ones(2, 2), turning] * 3, CAME(lr=0.01, betas=(0.9, 0.99, 0.9)))
    steady, unsteady = next(iter(optimizer.state.values()))["exp_avg_res_row"].tolist()
    assert unsteady > 1.5 * steady


def test_zero_gradients_leave_the_decay_alone() -> None:
    for zeros in (torch.zeros(2, 3), torch.zeros(3)):
        weight, _ = stepped([zeros], CAME(lr=0.1, weight_decay=0.5))
        torch.testing.assert_close(weight, torch.full_like(zeros, 0.95))


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_are_fp32_and_the_formula_is_their_bytes(dtype: torch.dtype) -> None:
    model, method = build_model("9m", dtype=dtype, num_layers=1, vocab_size=64), CAME()
    optimizer = method.prepare(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert method.formula(weight).optimizer_state == sum(tensor.nbytes for tensor in state.values())


def test_formula_by_hand() -> None:
    gate = Weight("gate", Role.GATE, (11008, 4096), 1, 2)
    assert CAME().formula(gate).optimizer_state == 4 * (11008 * 4096 + 2 * (11008 + 4096))
    assert CAME().formula(gate).transient == 4 * (2 * 11008 * 4096 + 11008)


def test_one_group_makes_no_more_scratch_than_the_largest_weight() -> None:
    model, method = build_model("9m", device="meta", num_layers=4), CAME()
    optimizer = method.prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    with Ledger(model, optimizer) as ledger:
        optimizer.step()
    weights = [weight for weight, _ in named_weights(model)]
    assert ledger.at_peak["extra"] <= max(method.formula(weight).transient for weight in weights)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_of_24_layers_is_some_hundred_launches(dtype: torch.dtype, launches: Count) -> None:
    model = build_model("350m", device="meta", dtype=dtype)
    optimizer = CAME().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert launches(optimizer.step) <= 700
