"""How far a step is from what its device can do: the device is asked in the race's process, the sums are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memprof.bounds.ceilings import Ceilings, Rate, Sizes, measure_ceilings
from memprof.bounds.floor import floor_of, mfu, model_flops_per_second
from memprof.child import CellError
from memprof.device import Device
from memprof.guard import cell_errors
from memprof.scenario import Scenario
from memprof.step import TORCH_DTYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Measured ceilings, as JSON can hold them."""

    sizes: Sizes
    copy: Rate
    matrix: Rate
    tf32: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the race's device is called, and what it can do."""

    gpu: str | None = None
    """None for a CPU"""
    rates: Rates | None = None
    """None where there was no room to measure them, or nobody asked"""


def abilities(device: Device, scenario: Scenario, measured: bool) -> Abilities:
    """Before any entrant is there. What the measurement took is given back."""
    gpu = device.describe().get("gpu")
    if not measured:
        return Abilities(gpu=gpu)
    try:
        with cell_errors():
            found = measure_ceilings(device, TORCH_DTYPE[scenario.dtype])
    except CellError:
        return Abilities(gpu=gpu)
    finally:
        device.reset()
    return Abilities(gpu=gpu, rates=Rates(sizes=found.sizes, copy=found.copy, matrix=found.matrix, tf32=found.tf32))


def bounds(
    scenario: Scenario, known: Abilities, speed: float, step_seconds: float, optimizer_seconds: float
) -> dict[str, Any]:
    """The fields of a `Speed` that set it beside the device: MFU, model FLOPs and floor. `speed`: examples a second."""
    share, why = mfu(scenario, speed, known.gpu, known.rates.tf32 if known.rates else None)
    fields: dict[str, Any] = {
        "mfu": share,
        "mfu_reason": why,
        "model_flops_per_second": model_flops_per_second(scenario, speed),
    }
    if known.rates is not None:
        rates = known.rates
        ceilings = Ceilings(
            dtype=TORCH_DTYPE[scenario.dtype],
            sizes=rates.sizes,
            copy=rates.copy,
            matrix=rates.matrix,
            tf32=rates.tf32,
        )
        fields["floor"] = floor_of(scenario, ceilings, step_seconds, optimizer_seconds)
    return fields
