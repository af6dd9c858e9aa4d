"""An entrant beside others computes what it computes alone, to the bit; and nothing in a window asks the device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.method import Footprint, Method, Weight
from memprof.race.course import race
from memprof.race.entrant import Entrant, longest_run
from memprof.race.laps import Laps
from memprof.race.window import time_window
from memprof.scenario import Scenario
from tests.race.stage import scenario_of


@dataclasses.dataclass(frozen=True, slots=True)
class Noisy(Method):
    """Plain SGD that adds noise to its gradients, from torch's own generator."""

    name: ClassVar[str] = "noisy"
    paper: ClassVar[str] = "none"

    lr: float = 0.1

    def prepare(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, foreach=False)
        optimizer.register_step_pre_hook(lambda *_: add_noise(model))
        return optimizer

    def formula(self, weight: Weight) -> Footprint:
        return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=0)


def add_noise(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad += torch.randn_like(parameter.grad)


METHODS: tuple[str | Method, ...] = ("adamw", "galore", Noisy(), Noisy(lr=0.2), "low-rank")
"""some draw random numbers in every step, and one in the making of its weights"""


def test_losses_raced_are_losses_alone(fake_device: Callable[..., Any]) -> None:
    scenarios = [scenario_of(method) for method in METHODS]
    together = race(scenarios, fake_device(), (2, 1), clock())
    for scenario in scenarios:
        alone = race([scenario], fake_device(), (2, 1), clock())[scenario.id]
        beside = together[scenario.id]
        assert isinstance(alone, Laps) and isinstance(beside, Laps)
        assert (alone.loss_first, alone.loss_last) == (beside.loss_first, beside.loss_last), scenario.method.name
        assert alone.loss_first is not None and alone.loss_last not in (None, alone.loss_first)


def clock() -> Callable[[], float]:
    """Every step takes a second, so that the warm-up is of the same length everywhere."""
    return map(float, itertools.count()).__next__


def test_weights_of_interleaved_entrants_are_those_alone(fake_device: Callable[..., Any]) -> None:
    beside = [Entrant(scenario_of(Noisy()), fake_device()) for _ in range(2)]
    for entrant in [*beside, *beside[::-1], *beside]:
        with entrant.own_randomness():
            entrant.step()
    one, two = ([p.detach() for p in entrant.model.parameters()] for entrant in beside)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_others_random_numbers_stay_theirs(fake_device: Callable[..., Any]) -> None:
    entrant = Entrant(scenario_of(Noisy()), fake_device())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with entrant.own_randomness():
        entrant.step()
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)


class NoHostReads(TorchDispatchMode):
    """Raises where a number of the device is asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("method", ["adamw", "galore", "adafactor", "relora"])
def test_nothing_in_a_window_asks_the_device(fake_device: Callable[..., Any], method: str, accumulation: int) -> None:
    scenario = scenario_of(method, accumulation=accumulation, clip_grad_norm=1.0)
    entrant, device = Entrant(scenario, fake_device(), compared=(2, 3)), fake_device()
    entrant.step()
    with NoHostReads():  # type: ignore[no-untyped-call]
        time_window(entrant, device, clock(), 3)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            entrant.losses()


def test_the_compared_losses_are_of_the_same_tokens(fake_device: Callable[..., Any]) -> None:
    """The second step has the first one's once more, and no other step has any of the others'."""
    seen: list[list[int]] = []
    entrant = Entrant(scenario_of(accumulation=2), fake_device(), compared=(1, 3))
    entrant.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten().tolist()))
    for _ in range(5):
        entrant.step()
    steps = [seen[2 * number : 2 * number + 2] for number in range(5)]
    assert steps[3] == steps[1] and all(one not in steps[:number] for number, one in enumerate(steps) if number != 3)
    first, last = entrant.losses()
    assert first is not None and last is not None and last < first


def test_a_second_loss_is_there_however_few_steps_its_windows_had(fake_device: Callable[..., Any]) -> None:
    """Between two refreshes that are three steps apart a window has two, whatever it was to have."""
    (found,) = race([scenario_of("galore:update_gap=3,rank=4")], fake_device(), [20, 20]).values()
    assert isinstance(found, Laps) and sum(each.steps for each in found.rounds) < 10
    assert found.loss_last is not None and found.loss_last != found.loss_first


def test_between_two_steps_an_entrant_holds_no_gradient(fake_device: Callable[..., Any]) -> None:
    entrant = Entrant(scenario_of(), fake_device())
    entrant.step()
    assert all(parameter.grad is None for parameter in entrant.model.parameters())


@pytest.mark.parametrize(
    ("due", "steps", "begin", "length"),
    [
        ([], 4, 0, 4),
        ([9], 4, 0, 4),
        ([4], 4, 0, 4),
        ([3, 50], 4, 4, 4),
        ([0, 50], 4, 1, 4),
        ([2, 5, 8, 11], 4, 0, 2),
        ([1, 4, 7, 10], 4, 2, 2),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 4, 0, 0),
        ([0, 1, 2, 50], 4, 3, 4),
    ],
)
def test_where_a_window_may_begin(due: list[int], steps: int, begin: int, length: int) -> None:
    assert longest_run(due, steps) == (begin, length)


@pytest.mark.parametrize("method", ["adamw", "galore:update_gap=2"])
def test_a_way_is_cleared_by_steps_that_are_not_timed(fake_device: Callable[..., Any], method: str) -> None:
    scenario: Scenario = scenario_of(method)
    entrant = Entrant(scenario, fake_device())
    free = entrant.clear_the_way(3)
    assert (free, entrant.taken) == ((3, 0) if method == "adamw" else (1, 1))
