"""The CUDA device without CUDA: torch.cuda's functions replaced, its history as torch documents it.

Tests marked gpu ask the real one.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memprof.api import plan
from memprof.device import Allocation, Conditions, CudaDevice, Recording, Usage, get_device
from memprof.device.allocator_history import Counts, history_events
from memprof.device.nvml import NoNvmlError
from memprof.errors import UnsupportedError
from memprof.measure.watch import END as STEP_END
from memprof.measure.watch import KEPT, Mark, replay, watch_memory
from memprof.timeline import ACTIVATION, BACKWARD, EXTRA, FORWARD, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, Timeline
from memprof.trace import trace
from tests.device.histories import END, HISTORY, MARKS, A, G, S, W, alloc, counts, entry, free

GPU = 1
SETTINGS = {"expandable_segments": False, "max_split_size": -1, "roundup_power2_divisions": {"1": 0}}
OWNED = {PARAM: {W}, GRAD: set[int](), OPTIMIZER_STATE: {S}}


def recorded() -> tuple[Timeline, list[int]]:
    with_grad = OWNED | {GRAD: {G}}
    marks = [Mark(FORWARD, OWNED), Mark(BACKWARD, OWNED), Mark(OPTIMIZER, with_grad), Mark(STEP_END, OWNED)]
    return replay(Recording(history_events(HISTORY, MARKS, END)), marks)


def test_peak_and_categories_by_hand() -> None:
    timeline, positions = recorded()
    peak = timeline.peak(positions[0], positions[-1])
    # weight 1000 + state 2000 + workspace 500 + gradient 1000 + 700 in the optimizer's step
    assert (peak.nbytes, peak.phase) == (5200, OPTIMIZER)
    assert peak.by_category == {PARAM: 1000, GRAD: 1000, OPTIMIZER_STATE: 2000, ACTIVATION: 0, EXTRA: 1200}
    assert peak.extra_by_maker == {"methods/galore.py:120": 700, KEPT: 500}
    # backward: 1000 + 2000 + 500 + 1000 + activation 300 + 60
    backward = timeline.peak(positions[0], positions[2])
    assert (backward.nbytes, backward.extra_by_maker) == (4860, {KEPT: 500, "backward kernels": 60})


def test_a_workspace_that_outlives_steps_is_no_activation() -> None:
    """cuBLAS takes its workspace through the allocator once and keeps it: it is alive when every forward ends."""
    timeline, positions = recorded()
    assert timeline.activation(before=positions[-1]) == 300
    assert timeline.totals(positions[1])[EXTRA] == 500


def test_a_free_of_a_block_from_before_counts_nothing() -> None:
    timeline, positions = recorded()
    assert timeline.totals(positions[0]) == {PARAM: 1000, GRAD: 0, OPTIMIZER_STATE: 2000, ACTIVATION: 0, EXTRA: 500}
    assert timeline.totals() == timeline.totals(positions[0])


def test_torch_takes_the_call_that_records() -> None:
    """The signature of torch 2.11 to 2.13: a string for `enabled`, Python's tracebacks of allocations."""
    signature = inspect.signature(torch.cuda.memory._record_memory_history)
    signature.bind("all", context="alloc", stacks="python", max_entries=5, clear_history=True)
    signature.bind(None)
    inspect.signature(torch.cuda.memory._snapshot).bind()


class Event:
    """A CUDA event on a clock of milliseconds that moves by 250 a record."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.clock += 250.0
        self.at = Event.clock

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Cuda:
    """torch.cuda, in so far as the device calls it."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.before = Counts(1_000, 900)
        """counted before anyone recorded"""
        self.calls: list[Any] = []
        self.snapshots = 0

    def call(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def snapshot(self) -> dict[str, Any]:
        """Taking a snapshot enters the history itself, after what it returns."""
        self.snapshots += 1
        seen = list(self.history)
        self.history.append(entry("snapshot"))
        of_another = [entry("alloc", 1, 1)]
        traces = [of_another, seen, of_another]
        self.calls.append(("snapshot", (), {}))
        return {"segments": [], "device_traces": traces, "allocator_settings": SETTINGS}

    def stats(self, device: torch.device) -> dict[str, int]:
        now = counts(self.history)
        return {
            "allocation.all.allocated": self.before.allocations + now.allocations,
            "allocation.all.freed": self.before.frees + now.frees,
        }


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    fake = Cuda()
    properties = SimpleNamespace(uuid="12ab", total_memory=2**37)
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "current_device": lambda: GPU,
        "get_device_properties": lambda device: properties,
        "get_device_name": lambda device: "NVIDIA Fake",
        "get_allocator_backend": lambda: "native",
        "Event": Event,
        "synchronize": fake.call("synchronize"),
        "empty_cache": fake.call("empty_cache"),
        "reset_peak_memory_stats": fake.call("reset_peak"),
        "max_memory_allocated": lambda device: 1024,
        "memory_reserved": lambda device: 2**20,
        "memory_stats": fake.stats,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", fake.call("record"))
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", fake.snapshot)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", fake.call("clear_workspaces"), raising=False)
    yield fake


def test_without_cuda_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match="--device cpu or --no-measure"):
        get_device("cuda")


def test_it_describes_the_gpu_and_is_content_without_nvml(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(uuid: str) -> None:
        raise NoNvmlError("no driver here")

    monkeypatch.setattr("memprof.device.cuda.Nvml.of", absent)
    device = CudaDevice()
    facts = device.describe()
    assert (facts["gpu"], facts["driver"], facts["allocator"]) == ("NVIDIA Fake", None, "native")
    assert device.torch_device == torch.device("cuda", GPU)
    assert device.total_bytes() == 2**37
    assert device.usage() == Usage(None, "no driver here")
    assert (device.joules(), device.conditions()) == (None, Conditions())


def test_nvml_is_asked_about_the_gpu_that_torch_uses(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def found(uuid: str) -> Any:
        asked.append(uuid)
        return SimpleNamespace(usage=lambda held: Usage(held + 1))

    monkeypatch.setattr("memprof.device.cuda.Nvml.of", found)
    assert CudaDevice().usage() == Usage(2**20 + 1), "told what the allocator holds at that moment"
    assert asked == ["12ab"]


def test_the_recording_is_of_its_own_gpu_and_stops(cuda: Cuda) -> None:
    device = CudaDevice()
    with device.record() as recording:
        cuda.history.append(alloc(W, 8))
        recording.mark()
        cuda.history += [alloc(G, 16), *free(W, 8)]
        recording.mark()
        cuda.history.append(alloc(A, 4))
        assert cuda.snapshots == 0, "a mark copies nothing"
    assert recording.events == [
        Allocation(W, 8),
        0,
        Allocation(G, 16),
        Allocation(W, -8),
        1,
        Allocation(A, 4),
    ]
    assert (recording.settings, cuda.snapshots) == (SETTINGS, 1)
    started, stopped = (call for call in cuda.calls if call[0] == "record")
    assert started[1] == ("all",)
    assert (started[2]["context"], started[2]["stacks"], started[2]["clear_history"]) == ("alloc", "python", True)
    assert stopped[1] == (None,)


def test_what_was_launched_is_over_when_the_history_is_read(cuda: Cuda) -> None:
    with CudaDevice().record():
        pass
    assert [call[0] for call in cuda.calls] == ["record", "synchronize", "snapshot", "record"]


def test_an_allocator_that_keeps_no_history_is_told_before_anything_is_recorded(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    with pytest.raises(UnsupportedError, match="cudaMallocAsync keeps no history"), CudaDevice().record():
        raise AssertionError("nothing may run unrecorded")
    assert cuda.calls == []


def test_counters_that_were_set_back_are_told(cuda: Cuda) -> None:
    with pytest.raises(UnsupportedError, match="history has 2 allocations"), CudaDevice().record():
        cuda.history += [alloc(W, 8), alloc(G, 8)]
        cuda.before = Counts()
    assert cuda.calls[-1][:2] == ("record", (None,))


def test_recording_stops_when_a_step_fails(cuda: Cuda) -> None:
    with pytest.raises(torch.OutOfMemoryError), CudaDevice().record():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert [call[1] for call in cuda.calls if call[0] == "record"] == [("all",), (None,)]


def test_a_history_that_overflowed_is_refused(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full ring buffer has lost its first entries, and marks count from the first."""
    monkeypatch.setattr("memprof.device.cuda.CUDA_HISTORY_ENTRIES", 3)
    with pytest.raises(UnsupportedError, match="allocator events"), CudaDevice().record():
        cuda.history += [alloc(W, 8), alloc(G, 8), alloc(A, 8)]
    assert cuda.calls[-1][:2] == ("record", (None,))


def test_seconds_are_read_from_events(cuda: Cuda) -> None:
    device = CudaDevice()
    start, end = device.now(), device.now()
    assert device.seconds(start, end) == 0.25


def test_reset_gives_back_workspaces_before_the_cache(cuda: Cuda) -> None:
    CudaDevice().reset()
    assert [call[0] for call in cuda.calls] == ["clear_workspaces", "empty_cache", "reset_peak"]


def test_reset_first_lets_go_of_models_in_circles(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and its optimizer's hooks hold each other, and what they hold is no cache to be given back."""
    model = torch.nn.Linear(1, 1)
    model.itself = [model]  # type: ignore[assignment]
    gone = weakref.ref(model)
    del model
    there: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: there.append(gone() is not None))
    CudaDevice().reset()
    assert there == [False]


def test_the_peak_is_the_allocators(cuda: Cuda) -> None:
    assert CudaDevice().allocated_peak() == 1024


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["adamw", "galore"])
@pytest.mark.parametrize("model", ["9m", "60m"])
def test_trace_and_a_real_gpu_agree(model: str, method: str, dtype: str) -> None:
    (scenario,) = plan([model], [method], dtype=dtype, device="cuda", batch_size=2, seq_len=64)
    expected = trace(scenario)
    device = get_device("cuda")
    device.reset()
    watched = watch_memory(scenario, device)
    seen, refresh = watched.ordinary, watched.refresh
    states = {PARAM: expected.param, OPTIMIZER_STATE: expected.optimizer_state}
    assert {key: seen.after[key] for key in states} == states
    assert (seen.grad, seen.activation) == (expected.grad, expected.activation)
    workspaces = seen.replayed.extra_by_maker.get(KEPT, 0)
    assert abs(seen.replayed.nbytes - workspaces - expected.peak) <= 0.03 * expected.peak
    assert seen.counted is not None and seen.counted >= seen.replayed.nbytes
    assert sum(seen.replayed.by_category.values()) == seen.replayed.nbytes
    assert (refresh is None) == (expected.refresh_peak is None)


@pytest.mark.gpu
def test_a_real_gpu_is_described_and_clears_its_workspaces() -> None:
    device = get_device("cuda")
    device.reset()
    facts = device.describe()
    assert facts["gpu"] and facts["cuda"]
    assert torch.cuda.memory_allocated() == 0


@pytest.mark.gpu
def test_marks_fall_between_the_entries_of_a_real_history() -> None:
    device = get_device("cuda")
    device.reset()
    with device.record() as recording:
        recording.mark()
        one = torch.empty(1000, dtype=torch.uint8, device=device.torch_device)
        recording.mark()
        two = torch.empty(70_000, dtype=torch.uint8, device=device.torch_device)
        address = one.data_ptr()
        del one
        recording.mark()
        del two
    sizes = [
        event if isinstance(event, int) else (event.address == address, event.nbytes) for event in recording.events
    ]
    assert sizes == [0, (True, 1000), 1, (False, 70_000), (True, -1000), 2, (False, -70_000)]
    assert "expandable_segments" in recording.settings


@pytest.mark.gpu
def test_a_real_driver_says_what_this_process_uses_or_why_not() -> None:
    device = get_device("cuda")
    held = torch.empty(2**20, device=device.torch_device)
    usage = device.usage()
    assert (usage.nbytes is None) != (usage.reason is None)
    assert usage.nbytes is None or usage.nbytes >= held.nbytes
    assert isinstance(device, CudaDevice) and device.nvml is not None and device.conditions().celsius is not None
