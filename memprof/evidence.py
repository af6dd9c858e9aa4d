"""What stands behind a witness's figures: where a device's memory went, in one sum, and how a speed was come by.

Parts of a record. Bytes are integers, times are seconds; a figure that is not to be had is None, with its reason where
somebody would ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OWNED = ("param", "grad", "optimizer_state", "activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float

    def broken(self) -> str | None:
        """What is out of order, if anything is."""
        return None if self.low <= self.median <= self.high else "an interval's median must lie between its ends"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What CUDA's caching allocator holds, by its rules, at the worst instant of a traced step. See `allocator/`."""

    allocated: int
    """whole blocks handed out at most: tensors, workspaces and what rounding adds"""
    requested: int
    """what was asked for in them"""
    workspaces: dict[str, int] = field(default_factory=dict)
    """of it, by name: what no dispatcher sees, added as constants with a source"""
    reserved: int
    """segments held at most over the whole run: model, first step, ordinary step, refresh"""
    fragmentation: int
    """free bytes at that instant in segments that hold a live block"""
    cached: int
    """the rest of `reserved`: free segments, and segments taken at another instant"""
    reserved_expandable: int
    """the same as `reserved` with expandable_segments:True"""
    gpu: str = ""
    """whose workspaces these are; empty where none were added"""

    @property
    def tensors(self) -> int:
        """What a traced step's own tensors asked for."""
        return self.requested - sum(self.workspaces.values())

    @property
    def rounding(self) -> int:
        """By how much blocks are larger than what was asked for."""
        return self.allocated - self.requested

    def broken(self) -> str | None:
        """Which sum does not hold, if one does not."""
        whole = self.allocated + self.fragmentation + self.cached
        return None if whole == self.reserved else f"the pool's parts sum to {whole} and reserved is {self.reserved}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """A GPU process's memory at the worst instant of an ordinary step, in one sum from the top.

    device = context + reserved, reserved = cached + fragmentation + allocated, allocated = param + grad +
    optimizer_state + activation + temporaries + workspaces + rounding + unattributed.
    """

    device: int | None
    """what the driver (NVML) says that this process uses"""
    device_reason: str | None = None
    """why it does not say"""
    context: int | None
    """device minus reserved"""
    reserved: int
    cached: int
    """segments that are wholly free at that instant, or were taken at another"""
    fragmentation: int
    """free bytes in segments that hold a live block"""
    allocated: int
    """the allocator's own count of whole blocks"""
    param: int
    grad: int
    optimizer_state: int
    activation: int
    temporaries: int
    """made within the step by operations, and in nobody's hands"""
    workspaces: int
    """kept by libraries from one step to the next (cuBLAS, cuDNN)"""
    rounding: int
    """what blocks are larger than what was asked for"""
    unattributed: int
    """what no line explains: the allocator's count less its own recorded events"""
    replayed_reserved: int | None = None
    """what the allocator's rules give for the recorded events: the simulation held against the real thing"""
    events: int = 0
    """of the recording"""

    def broken(self) -> str | None:
        """Which of the three sums does not hold, if one does not."""
        if None not in (self.device, self.context) and self.device != (self.context or 0) + self.reserved:
            return f"context and reserved do not sum to device {self.device}"
        if self.reserved != self.cached + self.fragmentation + self.allocated:
            return f"cached, fragmentation and allocated do not sum to reserved {self.reserved}"
        owned = sum(getattr(self, name) for name in OWNED)
        parts = owned + self.temporaries + self.workspaces + self.rounding + self.unattributed
        return None if parts == self.allocated else f"the parts sum to {parts} and allocated is {self.allocated}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a step cannot be faster than on this device, and how far it is from that.

    seconds = flops / matrix_flops_per_second + optimizer_bytes / copy_bytes_per_second, both rates measured.
    """

    copy_bytes_per_second: float
    """read and written, of a copy larger than the caches"""
    matrix_flops_per_second: float
    """of a large matrix product in the scenario's dtype"""
    optimizer_bytes: int
    """that the optimizer's step must move: weights and states read and written, gradients read"""
    optimizer_seconds: float
    optimizer_ratio: float | None = None
    """measured optimizer phase over its floor"""
    flops: int
    """of forward and backward of a whole step, matrix products alone, nothing recomputed"""
    seconds: float
    ratio: float | None = None
    """measured step over its floor"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How a throughput was come by: the protocol of a race in rounds, and what it says beside the headline."""

    rounds: int
    """that count"""
    rounds_dropped: int = 0
    """in which the device was slowed down by heat or power failure"""
    steps: int
    """timed ordinary steps, all rounds together"""
    refreshes: int = 0
    """timed steps with periodic work"""
    warmup_steps: int
    steady: bool
    """whether reserved bytes and step time had settled before the first round, and the bytes stayed so while timed"""
    without_periodic: Interval
    """examples per second of ordinary steps alone"""
    refreshes_per_step: float = 0.0
    refresh_seconds: Interval | None = None
    """what a step with periodic work takes beyond an ordinary one; the headline has its share of it"""
    refresh_matrices: int | None = None
    """matrices that share these seconds"""
    p99_step_seconds: float
    papers_examples_per_second: float | None = None
    """by the papers' clock: stopped after the optimizer was launched, not after it was done; no periodic work"""
    ratio: Interval | None = None
    """examples per second over AdamW's, paired by round; None where AdamW did not run beside it"""
    spread: Interval | None = None
    """AdamW over itself in the same rounds: what such a ratio shows where there is no difference"""
    host_wait: float | None = None
    """share of a step by which the device was behind the host as a window ended; near 0: the host is the brake"""
    watts: float | None = None
    joules_per_example: float | None = None
    mfu: float | None = None
    """model FLOPs over time and the GPU's data-sheet peak"""
    mfu_reason: str | None = None
    """what the MFU counts, or why there is none"""
    model_flops_per_second: float | None = None
    floor: Floor | None = None
    celsius: int | None = None
    """the hottest that was seen between windows"""
    sm_mhz: int | None = None
    """the lowest clock that was seen between windows"""
