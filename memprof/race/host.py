"""Whether the host is the brake of a step, and not the device.

Launches are queued. Where the device is the brake the queue runs full (CUDA's holds about 1024 launches), the host gets
no further, and the device comes to each mark by that queue later than the host did. Where the host is the brake the
queue is empty: the device comes to the last optimizer phase at once. At the very end it may be behind all the same, by
a last kernel that is long, as fused AdamW's is; so the lesser of the two counts.

Marks on the device's clock cannot tell the two apart, since they span the gaps between kernels too. What a window takes
beyond them is what two synchronisations cost, and it shows only that a window is too short.

A queue is a number of launches and no share of a step: 1024 of them may be less than 2 % of a step of many
micro-batches although the device never idles. So the lag is set against one micro-batch's share. Forward and backward
of one take some 60 launches a layer, so a full queue is no small part of it, whatever the step; and an optimizer whose
launches are so short that it drains the queue on its own is slowed down by the host, as the flag says.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from memprof.race.laps import Round
from memprof.scenario import Scenario

BRAKE = 0.02
"""share of a micro-batch that the device must have been behind, and of a window that may lie outside its marks"""


def host_wait(scenario: Scenario, rounds: Sequence[Round]) -> float | None:
    """Share of a step by which the device was behind as a window ended. None on a CPU, where both are one."""
    if scenario.device == "cpu":
        return None
    return median(each.waited / each.step for each in rounds)


def is_host_bound(scenario: Scenario, rounds: Sequence[Round]) -> bool:
    """Whether the device waited for the host, so that a speed says more of Python than of the method."""
    waited = host_wait(scenario, rounds)
    if waited is None:
        return False
    outside = median(1 - each.device_seconds / each.seconds for each in rounds)
    return waited * scenario.accumulation < BRAKE or outside > BRAKE
