"""Whose a block is, by the address of its storage: wrappers, states on odd objects, views, ties, swapped storages.

The fakes are built as torchao's and bitsandbytes' optimizers keep their states. Oracle: `data_ptr` of each tensor that
really holds bytes, and sums by hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memprof.device import Allocation, CpuDevice, Recording
from memprof.measure.watch import Mark, owned_addresses, replay
from memprof.timeline import CATEGORIES, FORWARD, GRAD, OPTIMIZER_STATE, PARAM

FLOAT = 4


def at(*tensors: Tensor) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class Wrapped(Tensor):
    """A wrapper subclass over codes, scale and quantisation map."""

    parts: dict[str, Tensor]

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, qmap: Tensor) -> Wrapped:
        wrapper: Wrapped = Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)
        wrapper.parts = {"codes": codes, "scale": scale, "qmap": qmap}
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(func)


class Flattening(Wrapped):
    """As torchao's OptimState8bit: it says which tensors are inside."""

    def __tensor_flatten__(self) -> tuple[list[str], list[int]]:
        return ["codes", "scale", "qmap"], []

    def __getattr__(self, name: str) -> Tensor:
        return self.parts[name]


def pieces() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(64, dtype=torch.uint8), torch.zeros(2), torch.zeros(256)


def test_state_inside_a_wrapper_is_found_whether_or_not_it_says_what_is_inside() -> None:
    weight = nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    first, second = pieces(), pieces()
    optimizer.state[weight] = {"exp_avg": Flattening(*first), "exp_avg_sq": Wrapped(*second)}
    module = nn.Module()
    module.weight = weight
    assert owned_addresses(module, optimizer)[OPTIMIZER_STATE] - at(weight) == at(*first, *second)


class QuantState:
    """As bitsandbytes keeps a state: plain attributes, one of them nested, one shared by all weights."""

    def __init__(self, qmap: Tensor) -> None:
        self.absmax, self.code, self.offset = torch.zeros(3), qmap, None
        self.nested = self.state2 = type("Nested", (), {})()
        self.state2.absmax = torch.zeros(1)


def test_state_on_objects_and_on_parameters_is_found_and_a_shared_map_is_one() -> None:
    model = nn.Linear(4, 4)
    qmap, shared = torch.zeros(256), {"dynamic": torch.zeros(256)}
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    states = [QuantState(qmap), QuantState(qmap)]
    for weight, kept in zip(model.parameters(), states, strict=True):
        optimizer.state[weight] = {"state1": torch.zeros(4, dtype=torch.uint8), "quant": kept}
        weight.residual = torch.zeros(5)  # type: ignore[attr-defined]
    optimizer.name2qmap = shared
    expected = [qmap, shared["dynamic"]]
    expected += [tensor for each in states for tensor in (each.absmax, each.state2.absmax)]
    expected += [optimizer.state[weight]["state1"] for weight in model.parameters()]
    expected += [weight.residual for weight in model.parameters()]  # type: ignore[attr-defined]
    found = owned_addresses(model, optimizer)
    assert found[OPTIMIZER_STATE] - found[PARAM] == at(*expected)
    assert len(at(*expected)) == 2 + 4 + 2 + 2


def replayed(events: list[Allocation | int], *owners: dict[str, set[int]]) -> list[dict[str, int]]:
    """Bytes by category at each mark, and when all was over."""
    none: dict[str, set[int]] = {PARAM: set(), GRAD: set(), OPTIMIZER_STATE: set()}
    timeline, positions = replay(Recording(events), [Mark(FORWARD, none | own) for own in owners])
    totals = [timeline.totals(end) for end in (*positions, None)]
    return [{key: each[key] for key in CATEGORIES if each[key]} for each in totals]


def test_parameters_that_look_into_one_storage_are_that_storage_once() -> None:
    """Two weights in a flat buffer with a gap, and a third that is tied to the first."""
    with CpuDevice().record() as recording:
        flat = torch.zeros(1000)
        module = nn.Module()
        module.one, module.two = nn.Parameter(flat[:300]), nn.Parameter(flat[400:].view(20, 30))
        module.tied = module.one
        recording.mark()
        module.one.grad = torch.zeros(300)
        recording.mark()
    before = owned_addresses(module, torch.optim.SGD(module.parameters()))
    assert before[PARAM] == at(flat)
    none: dict[str, set[int]] = {GRAD: set()}
    assert replayed(recording.events, before | none, before)[-1] == {PARAM: 1000 * FLOAT, GRAD: 300 * FLOAT}


def test_a_parameter_whose_storage_was_swapped_is_counted_where_it_lies_now() -> None:
    """The old storage is given back, and its address may be another tensor's at once."""
    with CpuDevice().record() as recording:
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(100))
        optimizer = torch.optim.SGD(module.parameters())
        recording.mark()
        first = owned_addresses(module, optimizer)
        module.weight.data = torch.zeros(30)
        recording.mark()
        second = owned_addresses(module, optimizer)
        passing = torch.zeros(100)
    assert passing.numel() == 100 and first[PARAM] != second[PARAM]
    assert replayed(recording.events, first, second) == [
        {PARAM: 100 * FLOAT},
        {PARAM: 30 * FLOAT},
        {PARAM: 30 * FLOAT, "extra": 100 * FLOAT},
    ]
