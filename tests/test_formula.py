"""The formula makes no tensor, and its sums are those of a step written out by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.api import plan
from memprof.catalogue import METHODS
from memprof.formula import formula
from memprof.method import HORIZON
from memprof.scenario import Scenario


class NoTensors(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"the formula called {func}")


def test_this_guard_guards() -> None:
    with pytest.raises(AssertionError, match="aten.zeros"), NoTensors():  # type: ignore[no-untyped-call]
        torch.zeros(1)


@pytest.mark.parametrize("name", METHODS)
def test_the_formula_makes_no_tensor(name: str) -> None:
    for model in ("9m", "llama3.1-405b", "llama3.2-1b"):
        case = plan([model], [name])[0]
        with NoTensors():  # type: ignore[no-untyped-call]
            first = formula(case)
        assert first == formula(case)


def case_of(**fields: Any) -> Scenario:
    return plan(["9m"], ["adamw"], **({"num_layers": 1, "vocab_size": 64} | fields))[0]


def test_states_and_totals_by_hand() -> None:
    """9m with one layer and 64 words: 2 * 64 * 128 + 4 * 128**2 + 3 * 128 * 352 + 3 * 128 numbers in 12 tensors."""
    numbers = 2 * 64 * 128 + 4 * 128**2 + 3 * 128 * 352 + 3 * 128
    for dtype, e in (("bf16", 2), ("fp32", 4)):
        costs = formula(case_of(dtype=dtype))
        assert (costs.param, costs.grad) == (e * numbers, e * numbers)
        assert costs.optimizer_state == 2 * e * numbers + 4 * 12
        assert costs.steady == costs.param + costs.optimizer_state
        assert costs.total == costs.steady + costs.grad + costs.activation + e * 128 * 352
        assert costs.refresh_peak is None


def test_activation_by_hand() -> None:
    """measuring: a layer keeps x, rstd, y twice; q, k, v, out, lse; gate, silu, up, product. The head x, rstd, y and
    the fp32 log-softmax. All share cos and sin; the loop holds ids, labels and the loss, the loss a count."""
    n, t, c, f, v, heads = 2 * 10, 10, 128, 352, 64, 4
    layer = 2 * (2 * n * c * 2 + 4 * n) + 4 * n * c * 2 + 4 * n * heads + 24 + 4 * n * f * 2
    head = 2 * n * c * 2 + 4 * n + 4 * n * v + 4
    expected = layer + head + 2 * t * 32 * 2 + 2 * 8 * n + 4
    assert formula(case_of(batch_size=2, seq_len=10)).activation == expected


def test_activation_of_checkpointed_layers_by_hand() -> None:
    """Of each layer its input alone, (N, C); the head, the tables and the loop hold what they do without."""
    n, t, c, v = 2 * 10, 10, 128, 64
    head = 2 * n * c * 2 + 4 * n + 4 * n * v + 4
    for layers in (1, 7):
        case = case_of(batch_size=2, seq_len=10, num_layers=layers, checkpointing=True)
        assert formula(case).activation == layers * n * c * 2 + head + 2 * t * 32 * 2 + 2 * 8 * n + 4


def test_peak_of_checkpointed_layers_by_hand() -> None:
    """In backward of the last layer's MLP: beside what forward left but the head's, all of that layer again, and the
    gradients of head, final norm and down_proj, of the loss, the layer's output, the product and both its factors. The
    product is gone."""
    case = case_of(num_layers=4, checkpointing=True)
    costs = formula(case)
    n, t, c, f, heads = 8 * 256, 256, 128, 352, 4
    layer = 2 * (2 * n * c * 2 + 4 * n) + 4 * n * c * 2 + 4 * n * heads + 24 + 4 * n * f * 2
    left = 4 * n * c * 2 + 2 * t * 32 * 2 + 2 * 8 * n + 4
    grads = 2 * (64 * c + c + f * c)
    passing = 4 + n * c * 2 + 3 * n * f * 2 - n * f * 2
    again = layer - n * c * 2
    assert costs.peak == costs.steady + left + again + grads + passing
    assert (costs.peak_phase, costs.peak_at) == ("backward", "layer 3 mlp product")


def test_peak_in_the_loss_by_hand() -> None:
    """Batch 8 x 256 and 32000 words: parameters, states, what forward saved, and two more (N, V) fp32 beside the bf16
    logits, which the float copy let go: log-softmax, its gradient, the gradient of the loss."""
    case = plan(["9m"], ["adamw"])[0]
    costs = formula(case)
    n, v = 8 * 256, 32_000
    expected = costs.steady + costs.activation - 4 + 2 * 4 * n * v + 4
    assert (costs.peak, costs.peak_phase, costs.peak_at) == (expected, "backward", "log-softmax gradient")


@pytest.mark.parametrize("name", METHODS)
def test_more_of_anything_never_costs_less(name: str) -> None:
    base = plan(["9m"], [name], rank=8)[0]
    small = formula(base)
    changes: list[dict[str, Any]] = [
        {"batch_size": 9},
        {"seq_len": 257},
        {"accumulation": 2},
        {"num_layers": 5},
        {"vocab_size": 32_001},
    ]
    for change in changes:
        large = formula(plan(["9m"], [name], rank=8, **change)[0])
        assert large.peak >= small.peak, change
        assert large.param >= small.param and large.activation >= small.activation, change


@pytest.mark.parametrize("name", METHODS)
def test_refresh_peak_is_there_where_periodic_work_is(name: str) -> None:
    case = plan(["9m"], [name])[0]
    assert case.method.is_periodic == (len(case.method.refresh_steps(HORIZON)) > 0)
    costs = formula(case)
    assert (costs.refresh_peak is not None) == case.method.is_periodic
    assert costs.refresh_peak is None or costs.refresh_peak >= costs.peak


def test_seed_device_and_name_cost_nothing() -> None:
    case = case_of()
    for change in ({"seed": 7}, {"device": "cpu"}, {"model": "another"}):
        assert formula(dataclasses.replace(case, **change)) == formula(case)


def test_peak_of_a_loss_in_pieces_by_hand() -> None:
    """In forward: what it leaves, which is no logit but the head's gradient and that of the hidden states, beside the
    hidden states, a piece's gradient in fp32 and bf16, four numbers and an index of each of its tokens, its loss,
    and the count of labels."""
    n, c, v, piece = 8 * 256, 128, 32_000, 293
    case, plain = (plan(["9m"], ["adamw"], loss_chunks=chunks)[0] for chunks in (7, 1))
    costs = formula(case)
    assert 7 * piece >= n > 7 * (piece - 1)
    assert costs.activation == formula(plain).activation - 4 * n * v - 4
    head = 2 * v * c
    expected = costs.steady + costs.activation + head + 2 * n * c + 6 * piece * v + (2 * 4 + 12) * piece + 4 + 4
    assert (costs.peak, costs.peak_phase, costs.peak_at) == (expected, "forward", "loss of a piece")
    assert costs.peak_by_category["grad"] == head


def test_a_heads_gradient_that_is_to_be_added_is_an_activation() -> None:
    """Accumulated or tied, it is none of the gradients that the optimizer reads."""
    for model, accumulation in (("9m", 2), ("llama3.2-1b", 1)):
        case, whole = (
            plan([model], ["adamw"], num_layers=2, accumulation=accumulation, loss_chunks=chunks)[0]
            for chunks in (4, 1)
        )
        shape, n = case.shape, 8 * 256
        head = 2 * shape.vocab_size * shape.hidden_size
        assert formula(case).activation == formula(whole).activation - 4 * n * shape.vocab_size - 4 + head
