"""Whether what was measured still learns: a verdict from two losses on the same tokens, a race of steps apart.

Steps have tokens of their own, and at the start of a training the loss of one differs from that of the next by more
than a step gains. So the last measured step gets the tokens of the first once more: what differs then is the weights'
doing, or rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memprof.record import Measured
from memprof.scenario import Scenario

DIVERGED, FLAT, ROSE = "diverged", "flat", "rose"
"""flags of a record"""
EPS = {"bf16": 2.0**-7, "fp16": 2.0**-10, "fp32": 2.0**-23}
"""relative distance of neighbouring numbers; the loss itself is fp32"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a loss is nothing to be content with."""

    flag: str
    reason: str


def judge(scenario: Scenario, measured: Measured) -> Verdict | None:
    """None where the loss fell by more than rounding may move it."""
    first, last = measured.loss_first, measured.loss_last
    if first is None or last is None:
        return Verdict(DIVERGED, "the loss is not finite: the training diverged")
    way, least = f"{first:.6g} to {last:.6g}", resolution(scenario, first)
    if abs(last - first) <= least:
        return Verdict(FLAT, f"the loss did not move: {way}, and {scenario.dtype} tells no less than {least:.1g} apart")
    return Verdict(ROSE, f"the loss rose: {way}") if last > first else None


def resolution(scenario: Scenario, loss: float) -> float:
    """What rounding may move a loss by: the dtype's eps of it at each token, which evens out over a micro-batch's.

    No less than fp32 tells apart.
    """
    return abs(loss) * max(EPS[scenario.dtype] / math.sqrt(scenario.tokens), EPS["fp32"])
