"""The memory pass: every allocation of a device recorded, from before the model exists, and put to its owner.

Nothing is taken from our own ledger: sizes and instants are the allocator's, owners are found by the addresses of
storages at marked points of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memprof.device import Allocation, Device, Recording
from memprof.ledger import grad_tensors, param_tensors, state_tensors
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import EXTRA, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH, Peak, Timeline

END = "end"
KEPT = "kept between steps"
"""the maker of what is alive when a step begins and belongs to nobody: on a GPU, cuBLAS's workspaces"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the run: the phase that begins there, and the addresses whose owner was known."""

    phase: str
    addresses: dict[str, set[int]]


@dataclass(frozen=True, slots=True)
class StepSeen:
    """What a device saw of one step."""

    replayed: Peak
    """the worst instant, by adding up the allocator's events"""
    counted: int | None
    """the allocator's own peak, in whole blocks; None where it keeps none"""
    grad: int
    activation: int
    after: dict[str, int]
    """bytes alive by category when the step was over"""

    @property
    def peak(self) -> int:
        return self.replayed.nbytes if self.counted is None else self.counted


class Watch:
    """Runs steps while a device records, and notes at each phase who owns which address."""

    def __init__(self, scenario: Scenario, device: Device, recording: Recording) -> None:
        self.scenario = scenario
        self.device = device
        self.recording = recording
        self.marks: list[Mark] = []
        self.model, self.optimizer = prepare(scenario, device.torch_device)

    def step(self, step_phase: str) -> tuple[int, int | None]:
        """One step; returns the number of its first mark and the allocator's own peak over it."""
        first = len(self.marks)
        self.device.reset_peak()
        train_step(self.model, self.optimizer, self.scenario, lambda p: self.mark(step_phase if p == OPTIMIZER else p))
        self.mark(END)
        return first, self.device.allocated_peak()

    def mark(self, phase: str) -> None:
        self.recording.mark()
        self.marks.append(Mark(phase, owned_addresses(self.model, self.optimizer)))


def owned_addresses(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, set[int]]:
    """Where the storages of parameters, gradients and optimizer state lie now."""
    return {
        PARAM: _addresses(param_tensors(model)),
        GRAD: _addresses(grad_tensors(model)),
        OPTIMIZER_STATE: _addresses(state_tensors(optimizer)),
    }


def _addresses(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def watch_memory(scenario: Scenario, device: Device) -> tuple[StepSeen, StepSeen | None]:
    """Record a step that creates the state, an ordinary one, and one with periodic work where there is such."""
    with device.record() as recording:
        watch = Watch(scenario, device, recording)
        train_step(watch.model, watch.optimizer, scenario)
        ordinary = watch.step(OPTIMIZER)
        refresh = None
        if scenario.method.is_periodic:
            request_refresh(watch.optimizer)
            refresh = watch.step(REFRESH)
    timeline, positions = replay(recording, watch.marks)
    seen = _read(timeline, positions, watch.marks, *ordinary)
    return seen, None if refresh is None else _read(timeline, positions, watch.marks, *refresh)


def replay(recording: Recording, marks: list[Mark]) -> tuple[Timeline, list[int]]:
    """A timeline from what a device recorded, and the event at which each mark stands."""
    timeline = Timeline()
    live: dict[int, int] = {}
    positions = []
    for event in recording.events:
        if isinstance(event, Allocation):
            _apply(timeline, live, event)
            continue
        positions.append(len(timeline.events))
        timeline.mark(marks[event].phase)
        for category, addresses in marks[event].addresses.items():
            timeline.label([live[address] for address in addresses if address in live], category)
    timeline.label_activations()
    for block in timeline.alive(positions[0]) if positions else ():
        if timeline.category[block] == EXTRA:
            timeline.maker[block] = KEPT
    return timeline, positions


def _apply(timeline: Timeline, live: dict[int, int], event: Allocation) -> None:
    if event.nbytes > 0:
        live[event.address] = timeline.allocate(event.nbytes, event.maker)
    elif event.address in live:
        timeline.free(live.pop(event.address))


def _read(timeline: Timeline, positions: list[int], marks: list[Mark], first: int, counted: int | None) -> StepSeen:
    phases = [mark.phase for mark in marks]
    end = positions[phases.index(END, first)]
    update = next(k for k in range(first, len(phases)) if phases[k] in (OPTIMIZER, REFRESH))
    return StepSeen(
        replayed=timeline.peak(positions[first], end),
        counted=counted,
        grad=timeline.totals(positions[update])[GRAD],
        activation=timeline.activation(before=end),
        after=timeline.totals(end),
    )
