"""What a race says of one scenario: the speed that goes into its record, and how it was come by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from memprof.evidence import Interval, Speed
from memprof.race.bootstrap import interval
from memprof.race.bounds import Abilities, bounds
from memprof.race.estimate import Pace
from memprof.race.host import host_wait, is_host_bound
from memprof.record import Measured
from memprof.timeline import BACKWARD, FORWARD, OPTIMIZER, REFRESH

CONTAMINATED, HOST_BOUND, THROTTLED = "contaminated", "host-bound", "throttled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raced:
    """The figures of a `Measured` that a race fills in; what they mean is said there."""

    examples_per_second: Interval
    tokens_per_second: float
    step_seconds: dict[str, float | None]
    joules_per_example: float | None
    speed: Speed
    loss_first: float | None
    loss_last: float | None
    flags: tuple[str, ...]
    """of the record"""

    def with_memory(self, measured: Measured) -> Measured:
        """A measurement in full, of its memory pass and this."""
        return replace(
            measured,
            examples_per_second=self.examples_per_second,
            tokens_per_second=self.tokens_per_second,
            step_seconds=self.step_seconds,
            joules_per_example=self.joules_per_example,
            speed=self.speed,
            loss_first=self.loss_first,
            loss_last=self.loss_last,
        )


def raced(pace: Pace, baseline: Pace | None, known: Abilities) -> Raced:
    """`baseline` is AdamW's pace in the same rounds; None where it was not beside."""
    headline, step, energy = pace.headline(), pace.step_seconds(), pace.energy()
    by_phase = {phase: pace.phase_seconds(phase) for phase in (FORWARD, BACKWARD, OPTIMIZER)}
    costs = pace.refresh_costs
    refresh = interval(costs) if costs else None
    method, rounds = pace.scenario.method, pace.rounds
    speed = Speed(
        rounds=len(rounds),
        rounds_dropped=len(pace.laps.rounds) - len(rounds),
        steps=sum(each.steps for each in rounds),
        refreshes=len(costs),
        warmup_steps=pace.laps.warmup_steps,
        steady=pace.laps.steady,
        without_periodic=pace.without_periodic(),
        refreshes_per_step=method.refreshes_per_step,
        refresh_seconds=refresh,
        refresh_matrices=sum(weight.is_matrix for weight in pace.scenario.weights()) if costs else None,
        p99_step_seconds=pace.p99_step_seconds(),
        papers_examples_per_second=pace.papers(),
        ratio=pace.ratio_to(baseline) if baseline else None,
        spread=baseline.spread() if baseline else None,
        host_wait=host_wait(pace.scenario, rounds),
        watts=energy[0] if energy else None,
        joules_per_example=energy[1] if energy else None,
        celsius=max((each.celsius for each in rounds if each.celsius is not None), default=None),
        sm_mhz=min((each.sm_mhz for each in rounds if each.sm_mhz is not None), default=None),
        **bounds(pace.scenario, known, headline.median, step, by_phase[OPTIMIZER]),
    )
    return Raced(
        examples_per_second=headline,
        tokens_per_second=headline.median * pace.scenario.seq_len,
        step_seconds={**by_phase, REFRESH: refresh.median if refresh else None},
        joules_per_example=speed.joules_per_example,
        speed=speed,
        loss_first=pace.laps.loss_first,
        loss_last=pace.laps.loss_last,
        flags=flags(pace),
    )


def flags(pace: Pace) -> tuple[str, ...]:
    """What stood in the way of the speed, in any round."""
    everywhere = pace.laps.rounds
    found = {
        CONTAMINATED: any(each.others for each in everywhere),
        HOST_BOUND: is_host_bound(pace.scenario, pace.rounds),
        THROTTLED: any(each.slowdowns for each in everywhere),
    }
    return tuple(flag for flag, there in found.items() if there)
