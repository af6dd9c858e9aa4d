"""The clock: whole steps between synchronisations, with marks at the borders of their phases and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memprof.device import Conditions, Device
from memprof.race.entrant import Entrant
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER

PHASES = (FORWARD, BACKWARD, OPTIMIZER)
END = "end"
Clock = Callable[[], float]
"""the host's, in seconds"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some whole steps of one entrant. Seconds."""

    seconds: float
    waited: float
    device_seconds: float
    phases: dict[str, float]
    each: list[float]
    joules: float | None
    ends: tuple[Conditions, Conditions]
    """how the device was doing right before and after"""


def time_window(entrant: Entrant, device: Device, clock: Clock, steps: int) -> Window:
    """Whole ordinary steps, the device idle at both ends.

    Marks are written down as the host passes them and read when all is over: no question to the device stands between
    two steps. `waited` is by how much the device came later than the host to the last optimizer phase or to the end,
    whichever is less: a long last kernel is waited for in any case, and a queue may be drained behind the first.
    """
    marks: list[tuple[str, Any]] = []
    passed: list[float] = []
    begins: list[int] = []

    def mark(phase: str) -> None:
        passed.append(clock())
        marks.append((phase, device.now()))

    device.synchronize()
    before, joules = device.conditions(), device.joules()
    start = clock()
    for _ in range(steps):
        begins.append(len(marks))
        entrant.step(mark)
    marks.append((END, device.now()))
    launched = clock()
    device.synchronize()
    end = clock()
    spent = _between(joules, device.joules())
    update = max(number for number, (phase, _) in enumerate(marks) if phase == OPTIMIZER)
    behind = end - device.seconds(marks[update][1], marks[-1][1]) - passed[update]
    return Window(
        seconds=end - start,
        waited=max(0.0, min(behind, end - launched)),
        device_seconds=device.seconds(marks[0][1], marks[-1][1]),
        phases=_by_phase(marks, device),
        each=[
            device.seconds(marks[first][1], marks[last][1])
            for first, last in zip(begins, [*begins[1:], len(marks) - 1], strict=True)
        ],
        joules=spent,
        ends=(before, device.conditions()),
    )


def time_refresh(entrant: Entrant, device: Device, clock: Clock) -> float:
    """Seconds of one step that does the periodic work too."""
    device.synchronize()
    start = clock()
    entrant.step(refresh=True)
    device.synchronize()
    return clock() - start


def time_as_papers_do(entrant: Entrant, device: Device, clock: Clock) -> float:
    """Seconds of one step by the clock behind published throughputs.

    ReLoRA's `torchrun_main.py` waits for forward and backward when it reads the gradient's norm, launches the optimizer
    and stops the clock with no further wait: what the device then still works on is in no step. The clock starts anew
    behind the logging, which waits for it. Its copy in GaLore clips no gradients by default and waits for nothing after
    the last micro-batch's launch, whose work it leaves out too; that is not done here.
    """
    device.synchronize()
    start = clock()
    entrant.step(lambda phase: device.synchronize() if phase == OPTIMIZER else None)
    stopped = clock()
    device.synchronize()
    return stopped - start


def _by_phase(marks: list[tuple[str, Any]], device: Device) -> dict[str, float]:
    """A mark begins its phase, and the next one ends it."""
    spent = dict.fromkeys(PHASES, 0.0)
    for (phase, begin), (_, end) in zip(marks, marks[1:], strict=False):
        spent[phase] += device.seconds(begin, end)
    return spent


def _between(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
