"""A cell to measure, and what a measurement of it may answer."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from memprof.api import plan
from memprof.headroom import Headroom
from memprof.method import Method
from memprof.record import Measured
from memprof.scenario import Scenario

NEEDS_NOTHING = Headroom(needed=0)
AT_PEAK = {"param": 1, "grad": 1, "optimizer_state": 2, "activation": 1, "extra": 0}
MEASURED = Measured(**AT_PEAK, peak=5, peak_phase="backward", peak_by_category=AT_PEAK, steady=3)  # type: ignore[arg-type]
ANSWER = json.dumps({"measured": dataclasses.asdict(MEASURED)})


def scenario_of(method: str | Method = "adamw", device: str | None = "cpu", **fields: Any) -> Scenario:
    chosen: dict[str, Any] = {
        "dtype": "fp32",
        "kernels": "cpu",
        "num_layers": 1,
        "vocab_size": 32,
        "batch_size": 1,
        "seq_len": 8,
    }
    (scenario,) = plan(["9m"], [method], device=device, **chosen | fields)
    return scenario
