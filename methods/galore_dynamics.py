"""GaLore-dynamics: GaLore whose subspace is refreshed less and less often as training goes on.

"Approximations may be all you need: towards pre-training LLMs with low-rank decomposition and optimizers", section 4.2.
No code was published. This is the rule that gives the paper's 15 refreshes in 20,000 steps where a gap of 50 gives 400:
step t refreshes when t is a multiple of the gap; the gap is 200 at first, and after every refresh but the one at step 0
it becomes half as long again, rounded down, up to 2500. So at 0, 200, 300, 450, 675, 1012, 1518, 2277, 2500, 5000, ...
17500. (Counting the next gap from the last refresh would make 13.) `request_refresh` leaves the schedule alone.

The paper trains with lr 1.5e-3 and scale 1 at rank 256; the defaults here are GaLore's own. Memory is GaLore's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from memprof.methods.galore import GaLore
from memprof.setting import as_in, setting


def growing_gaps(gap: int, growth: float, largest: int) -> Iterator[int]:
    """The steps that refresh: 0, then each next multiple of a gap that grows after every refresh."""
    yield 0
    step = 0
    while True:
        step += gap - step % gap
        yield step
        gap = max(gap, min(int(gap * growth), largest))


@dataclass(frozen=True, slots=True)
class ApproximationsGaLore(GaLore):
    """GaLore as "Approximations may be all you need" trains with it, and with what it makes of it."""

    paper: ClassVar[str] = "Approximations may be all you need"

    rank: int | None = as_in("256", GaLore, "rank")
    update_gap: int = as_in("50", GaLore, "update_gap")
    scale: float = as_in("1", GaLore, "scale")
    inner: str = as_in("adamw", GaLore, "inner")
    beta1: float | None = as_in("", GaLore, "beta1")
    lr: float = as_in("0.0015", GaLore, "lr")
    weight_decay: float = as_in("", GaLore, "weight_decay")


@dataclass(frozen=True, slots=True)
class GaLoreDynamics(ApproximationsGaLore):
    """GaLore with a gap between refreshes that grows by half up to 2500 steps."""

    name: ClassVar[str] = "galore-dynamics"

    update_gap: int = as_in("200 at first", GaLore, "update_gap")
    gap_growth: float = setting(1.5, "factor on the gap after each refresh but the first", papers="1.5", least=1)
    largest_gap: int = setting(2500, "where the gap stops growing", papers="2500", least=1)

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        steps = growing_gaps(self.update_gap, self.gap_growth, self.largest_gap)
        return list(takewhile(lambda step: step < horizon, steps))
