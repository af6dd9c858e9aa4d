"""The memory pass: every allocation of a device recorded, from before the model exists, and put to its owner.

Nothing is taken from our own ledger: sizes and instants are the allocator's, owners are found by the addresses of
storages at marked points of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from memprof.batches import batches
from memprof.device import Allocation, Device, Recording
from memprof.ledger import grad_tensors, param_tensors, state_tensors
from memprof.scenario import Scenario
from memprof.schema import PHASES
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import EXTRA, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, REFRESH, Peak, Timeline

END = "end"
KEPT = "kept between steps"
"""the maker of what is alive when a step begins and belongs to nobody: on a GPU, cuBLAS's workspaces"""
UNNAMED = "kernels"
"""the maker of what no operation and no line of a method or optimizer names: autograd's threads run no Python"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the run: the phase that begins there, and the addresses whose owner was known."""

    phase: str
    addresses: dict[str, set[int]]


@dataclass(frozen=True, slots=True)
class StepTaken:
    """A step that a watch ran."""

    first: int
    """number of its first mark"""
    seconds: float
    counted: dict[str, int]
    """the allocator's own peak within each phase, in whole blocks; empty where it keeps none"""


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
    phase_peaks: dict[str, int | None] = field(default_factory=dict)
    """the allocator's own peak within each phase; by its events where it keeps none"""
    marks: tuple[int, int] = (0, 0)
    """the recording's marks at which it began and was over"""
    seconds: float = 0.0
    """that it took while it was watched"""

    @property
    def peak(self) -> int:
        return self.replayed.nbytes if self.counted is None else self.counted


@dataclass(frozen=True, slots=True)
class Watched:
    """A run from before its model existed: a step that creates the state, an ordinary one, one with periodic work."""

    ordinary: StepSeen
    refresh: StepSeen | None
    """None for a method without periodic work"""
    timeline: Timeline
    recording: Recording
    phases: tuple[str, ...]
    """that begin at each mark of the recording"""


class Watch:
    """Runs steps while a device records, and notes at each phase who owns which address."""

    def __init__(self, scenario: Scenario, device: Device, recording: Recording) -> None:
        self.scenario = scenario
        self.device = device
        self.recording = recording
        self.marks: list[Mark] = []
        self.model, self.optimizer = prepare(scenario, device.torch_device)
        self.batches = batches(scenario, device.torch_device)

    def step(self, step_phase: str) -> StepTaken:
        """One step with a mark at each border of its phases."""
        first = len(self.marks)
        counted: dict[str, int] = {}

        def mark(phase: str) -> None:
            self.mark(step_phase if phase == OPTIMIZER else phase, counted)

        begin = self.device.now()
        train_step(self.model, self.optimizer, self.scenario, mark, self.batches)
        self.mark(END, counted)
        end = self.device.now()
        self.device.synchronize()
        counted.pop(END, None)
        return StepTaken(first, self.device.seconds(begin, end), counted)

    def mark(self, phase: str, counted: dict[str, int]) -> None:
        """A phase begins: note what the one before it counted at most, among all its micro-batches, and who owns what.

        The allocator's peak starts anew from what is allocated at the border.
        """
        self.device.synchronize()
        peak, over = self.device.allocated_peak(), self.marks[-1].phase if self.marks else END
        if peak is not None:
            counted[over] = max(peak, counted.get(over, 0))
        self.device.reset_peak()
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
    """Of whole storages: a view lies where the storage that it looks into begins, and ties lie at one address.

    A wrapper that does not say what is inside it has no storage; the tensors that hang on it have.
    """
    found = set()
    for tensor in tensors:
        with suppress(RuntimeError):
            found.add(tensor.untyped_storage().data_ptr())
    return found


def watch_memory(scenario: Scenario, device: Device) -> Watched:
    """Record a step that creates the state, an ordinary one, and one with periodic work where there is such."""
    with device.record() as recording:
        watch = Watch(scenario, device, recording)
        train_step(watch.model, watch.optimizer, scenario, batches=watch.batches)
        ordinary = watch.step(OPTIMIZER)
        refresh = None
        if scenario.method.is_periodic:
            request_refresh(watch.optimizer)
            refresh = watch.step(REFRESH)
    timeline, positions = replay(recording, watch.marks)
    return Watched(
        _read(timeline, positions, watch.marks, ordinary),
        None if refresh is None else _read(timeline, positions, watch.marks, refresh),
        timeline,
        recording,
        tuple(mark.phase for mark in watch.marks),
    )


def replay(recording: Recording, marks: list[Mark]) -> tuple[Timeline, list[int]]:
    """A timeline from what a device recorded, and the event at which each mark stands.

    A block that nothing names has the phase in which it was made for a name.
    """
    timeline = Timeline()
    live: dict[int, int] = {}
    positions = []
    maker = UNNAMED
    for event in recording.events:
        if isinstance(event, Allocation):
            _apply(timeline, live, event, maker)
            continue
        positions.append(len(timeline.events))
        timeline.mark(marks[event].phase)
        maker = f"{marks[event].phase} {UNNAMED}"
        for category, addresses in marks[event].addresses.items():
            timeline.label([live[address] for address in addresses if address in live], category)
    timeline.label_activations()
    for block in timeline.alive(positions[0]) if positions else ():
        if timeline.category[block] == EXTRA:
            timeline.maker[block] = KEPT
    return timeline, positions


def _apply(timeline: Timeline, live: dict[int, int], event: Allocation, maker: str) -> None:
    if event.nbytes > 0:
        live[event.address] = timeline.allocate(event.nbytes, event.maker or maker)
    elif event.nbytes < 0 and event.address in live:
        timeline.free(live.pop(event.address))


def _read(timeline: Timeline, positions: list[int], marks: list[Mark], step: StepTaken) -> StepSeen:
    phases = [mark.phase for mark in marks]
    last = phases.index(END, step.first)
    begin, end = positions[step.first], positions[last]
    update = next(k for k in range(step.first, len(phases)) if phases[k] in (OPTIMIZER, REFRESH))
    return StepSeen(
        replayed=timeline.peak(begin, end),
        counted=max(step.counted.values(), default=None),
        grad=timeline.totals(positions[update])[GRAD],
        activation=timeline.activation(before=end),
        after=timeline.totals(end),
        phase_peaks=_phase_peaks(timeline, phases[step.first : last], begin, end, step.counted),
        marks=(step.first, last),
        seconds=step.seconds,
    )


def _phase_peaks(
    timeline: Timeline, phases: list[str], begin: int, end: int, counted: dict[str, int]
) -> dict[str, int | None]:
    """Of the step's phases; of one at its end in which nothing happened, what was alive then."""
    if counted:
        return dict.fromkeys(PHASES) | counted
    still = dict.fromkeys(phases, timeline.instant(end).nbytes)
    return dict.fromkeys(PHASES) | still | timeline.phase_peaks(begin, end)
