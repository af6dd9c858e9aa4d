"""The same training step, seen by memprof's ledger and by torch's own MemTracker: peak bytes and seconds.

`python benchmarks/memtracker.py` runs AdamW on 350m, batch 8 x 256, CPU kernels, bf16 and fp32. Both witnesses run the
very same model, optimizer and step code, on a model whose optimizer state is there already, in one process, in turns,
garbage collected before each turn, one warm-up turn not counted. Imports are counted for neither; opening the witness,
the step, closing it and reading the peak with its categories are counted for both.

MemTracker runs in two ways. `fake` is its natural one: FakeTensorMode on device "cpu", as its documentation and tests
have it. `meta` is the fastest found: plain meta tensors without FakeTensorMode. It has no setting that does less: its
bookkeeping for every module at every operator, which takes most of its time, cannot be turned off. FakeTensorMode
has its cache of shapes and memprof what the state-creating step taught it, both filled before the clock starts.

Peaks are equal to the byte. Of the categories one tensor moves: the gradient that backward starts from (ones_like of
the loss, 4 B) is an activation to MemTracker, which waits for the first module's backward hook, and extra to memprof.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from memprof.api import plan
from memprof.kernels import KERNELS
from memprof.ledger import Ledger, Recorder
from memprof.llama import LlamaForCausalLM, build
from memprof.remember import MetaKernels
from memprof.scenario import Scenario
from memprof.step import TORCH_DTYPE, prepare, train_step
from memprof.trace import booked_step

OPTIMIZER = "optimizer"
TOLERANCE, SPEED_UP = 0.001, 25
"""What is promised: peaks within this share of each other, in at most 1/25 of MemTracker's time"""
Bytes = dict[str, int]
NAMES = {"Parameter": "param", "Gradient": "grad", "Optstate": "optimizer_state", "Activation": "activation",
         "Temp": "extra", "Buffer": "buffer", "Other": "other"}  # fmt: skip
"""MemTracker's categories under memprof's names"""


@dataclass(slots=True)
class Witness:
    """Something that watches one step: `watch` returns the peak by category."""

    name: str
    watch: Callable[[], Bytes]
    at_peak: Bytes = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def turn(self) -> None:
        gc.collect()
        start = time.perf_counter()
        self.at_peak = self.watch()
        self.seconds.append(time.perf_counter() - start)


def memprof_ledger(scenario: Scenario) -> Witness:
    """memprof: a ledger over a step on meta tensors, every block attributed."""
    kernels = MetaKernels()
    with Recorder("meta", kernels):
        model, optimizer = prepare(scenario, torch.device("meta"))
        train_step(model, optimizer, scenario)

    def watch() -> Bytes:
        ledger = booked_step(Ledger(model, optimizer, OPTIMIZER, kernels), scenario)
        return ledger.at_peak

    return Witness("memprof", watch)


def memtracker(scenario: Scenario, fake: bool) -> Witness:
    """torch's MemTracker over the same step, on fake CPU tensors or on meta tensors."""
    model = _meta_model(scenario)
    mode: AbstractContextManager[object] = FakeTensorMode() if fake else nullcontext()
    with mode:
        if fake:
            _fake_parameters(model)
        optimizer = scenario.method.prepare(model)
        train_step(model, optimizer, scenario)

    def watch() -> Bytes:
        with mode:
            tracker = MemTracker()
            tracker.track_external(model, optimizer)
            with tracker:
                train_step(model, optimizer, scenario)
            return _categories(tracker)

    return Witness(f"MemTracker, {'fake' if fake else 'meta'}", watch)


def _meta_model(scenario: Scenario) -> LlamaForCausalLM:
    return build(scenario.shape, KERNELS[scenario.kernels], TORCH_DTYPE[scenario.dtype], torch.device("meta"))


def _fake_parameters(model: nn.Module) -> None:
    """Under FakeTensorMode: fake parameters on device "cpu" in the place of meta ones."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
            setattr(module, name, nn.Parameter(fake))


def _categories(tracker: MemTracker) -> Bytes:
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()  # one device
    found = {getattr(kind, "value", kind): nbytes for kind, nbytes in snapshot.items()}
    total = found.pop("Total")
    assert total == sum(found.values()), "MemTracker's categories do not add up to its total"
    return {NAMES[kind]: nbytes for kind, nbytes in found.items() if nbytes or NAMES[kind] not in ("buffer", "other")}


def compare(scenario: Scenario, repeats: int) -> None:
    """Let the witnesses take turns, then print what they saw."""
    witnesses = [memprof_ledger(scenario), memtracker(scenario, fake=True), memtracker(scenario, fake=False)]
    for witness in witnesses:
        witness.turn()
        witness.seconds.clear()
    for _ in range(repeats):
        for witness in witnesses:
            witness.turn()
    _report(scenario, witnesses[0], witnesses[1:])


def _report(scenario: Scenario, ours: Witness, others: list[Witness]) -> None:
    print(
        f"\n{scenario.method.name} on {scenario.model}, batch {scenario.batch_size} x {scenario.seq_len}, "
        f"{scenario.dtype}, {scenario.kernels} kernels"
    )
    for witness in (ours, *others):
        spread = f"{min(witness.seconds):.3f} to {max(witness.seconds):.3f}"
        print(f"  {witness.name:17} peak {witness.peak:>14,} B   median {witness.median:.3f} s ({spread})")
    for other in others:
        apart = abs(ours.peak - other.peak) / other.peak
        ratio = other.median / ours.median
        print(f"  against {other.name}:")
        print(f"    peak differs by {apart:.4%} (target {TOLERANCE:.1%}): {_verdict(apart <= TOLERANCE)}")
        print(f"    time is 1/{ratio:.1f} (target 1/{SPEED_UP}): {_verdict(ratio >= SPEED_UP)}")
        for kind in sorted(ours.at_peak.keys() | other.at_peak.keys()):
            moved = ours.at_peak.get(kind, 0) - other.at_peak.get(kind, 0)
            if moved:
                print(f"    {kind}: memprof {moved:+,} B")


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="350m")
    parser.add_argument("--dtype", action="append", choices=("bf16", "fp16", "fp32"), help="repeats; bf16 and fp32")
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {torch.get_num_threads()} threads, ", end="")
    print(f"{asked.repeats} turns each after one warm-up")
    for dtype in asked.dtype or ("bf16", "fp32"):
        (scenario,) = plan([asked.model], ["adamw"], dtype=dtype, kernels="cpu")
        compare(scenario, asked.repeats)


if __name__ == "__main__":
    main()
