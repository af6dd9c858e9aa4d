"""The CUDA device without CUDA: torch.cuda's functions replaced, its history as torch documents it.

Tests marked gpu ask the real one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memprof.api import plan
from memprof.device import Allocation, CudaDevice, Recording, get_device
from memprof.device.cuda import UNNAMED, history_events
from memprof.errors import UnsupportedError
from memprof.timeline import ACTIVATION, BACKWARD, EXTRA, FORWARD, GRAD, OPTIMIZER, OPTIMIZER_STATE, PARAM, Timeline
from memprof.trace import trace
from memprof.watch import END, KEPT, Mark, replay, watch_memory

GPU = 1
W, G, S, A, T, CUBLAS, OLD = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000


def entry(action: str, addr: int = 0, size: int = 0) -> dict[str, Any]:
    """An entry of device_traces; one of out-of-memory has device_free where the others have addr."""
    place = {"device_free": 7} if action == "oom" else {"addr": addr}
    return {"action": action, "size": size, "stream": 0, "frames": [], **place}


def alloc(addr: int, size: int) -> dict[str, Any]:
    return entry("alloc", addr, size)


def free(addr: int, size: int) -> list[dict[str, Any]]:
    return [entry("free_requested", addr, size), entry("free_completed", addr, size)]


HISTORY = [
    entry("segment_alloc", 0x1000, 2**21),
    alloc(W, 1000),
    alloc(S, 2000),
    alloc(CUBLAS, 500),
    *free(OLD, 4096),  # made before anyone recorded
    entry("snapshot"),
    alloc(A, 300),  # forward begins at entry 7
    alloc(T, 40),
    *free(T, 40),
    entry("snapshot"),
    alloc(G, 1000),  # backward begins at entry 12
    alloc(T, 60),  # the same address, another block
    *free(A, 300),
    *free(T, 60),
    entry("oom", size=10**12),
    entry("segment_free", 0x900000, 2**21),
    alloc(A, 700),  # the optimizer begins at entry 20; the address of an old activation
    *free(A, 700),
    *free(G, 1000),
]
MARKS = [7, 12, 20, len(HISTORY)]
OWNED = {PARAM: {W}, GRAD: set[int](), OPTIMIZER_STATE: {S}}


def recorded() -> tuple[Timeline, list[int]]:
    with_grad = OWNED | {GRAD: {G}}
    marks = [Mark(FORWARD, OWNED), Mark(BACKWARD, OWNED), Mark(OPTIMIZER, with_grad), Mark(END, OWNED)]
    return replay(Recording(history_events(HISTORY, MARKS)), marks)


def test_history_keeps_allocations_and_completed_frees_alone() -> None:
    events = [event for event in history_events(HISTORY, []) if isinstance(event, Allocation)]
    actions = [item for item in HISTORY if item["action"] in ("alloc", "free_completed")]
    assert len(events) == len(actions)
    assert events[:3] == [Allocation(W, 1000, UNNAMED), Allocation(S, 2000, UNNAMED), Allocation(CUBLAS, 500, UNNAMED)]
    assert events[3] == Allocation(OLD, -4096)


def test_marks_stand_before_their_entries() -> None:
    events = history_events(HISTORY, MARKS)
    places = [events.index(mark) for mark in range(4)]
    after = [events[place + 1] for place in places[:3]]
    assert after == [Allocation(A, 300, UNNAMED), Allocation(G, 1000, UNNAMED), Allocation(A, 700, UNNAMED)]
    assert places[-1] == len(events) - 1


def test_marks_at_one_place_and_without_any_history() -> None:
    assert history_events([], [0, 0]) == [0, 1]
    assert history_events([alloc(W, 8)], [0, 0, 1]) == [0, 1, Allocation(W, 8, UNNAMED), 2]


def test_peak_and_categories_by_hand() -> None:
    timeline, positions = recorded()
    peak = timeline.peak(positions[0], positions[-1])
    # weight 1000 + state 2000 + workspace 500 + gradient 1000 + 700 in the optimizer's step
    assert (peak.nbytes, peak.phase) == (5200, OPTIMIZER)
    assert peak.by_category == {PARAM: 1000, GRAD: 1000, OPTIMIZER_STATE: 2000, ACTIVATION: 0, EXTRA: 1200}
    assert peak.extra_by_maker == {UNNAMED: 700, KEPT: 500}
    # backward: 1000 + 2000 + 500 + 1000 + activation 300 + 60
    assert timeline.peak(positions[0], positions[2]).nbytes == 4860


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
    """The signature of torch 2.11 to 2.13: a string for `enabled`, and no tracebacks."""
    signature = inspect.signature(torch.cuda.memory._record_memory_history)
    signature.bind("all", context=None, max_entries=5)
    signature.bind(None)


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
        self.calls: list[Any] = []

    def call(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def snapshot(self) -> dict[str, Any]:
        """Taking a snapshot enters the history itself, after what it returns."""
        seen = list(self.history)
        self.history.append(entry("snapshot"))
        return {"segments": [], "device_traces": [[entry("alloc", 1, 1)], seen]}


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
        "max_memory_reserved": lambda device: 2**21,
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
    monkeypatch.setattr("memprof.device.cuda.Nvml.of", lambda uuid: None)
    device = CudaDevice()
    facts = device.describe()
    assert (facts["gpu"], facts["driver"], facts["allocator"]) == ("NVIDIA Fake", None, "native")
    assert device.torch_device == torch.device("cuda", GPU)
    assert device.total_bytes() == 2**37
    assert (device.usage().nbytes, device.joules(), device.conditions().others) == (None, None, None)


def test_nvml_is_asked_about_the_gpu_that_torch_uses(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("memprof.device.cuda.Nvml.of", asked.append)
    CudaDevice()
    assert asked == ["12ab"]


def test_the_recording_is_of_its_own_gpu_and_stops(cuda: Cuda) -> None:
    device = CudaDevice()
    with device.record() as recording:
        cuda.history.append(alloc(W, 8))
        recording.mark()
        cuda.history += [alloc(G, 16), *free(W, 8)]
        recording.mark()
    assert recording.events == [
        Allocation(W, 8, UNNAMED),
        0,
        Allocation(G, 16, UNNAMED),
        Allocation(W, -8),
        1,
    ]
    started, stopped = (call for call in cuda.calls if call[0] == "record")
    assert started[1] == ("all",) and started[2]["context"] is None, "no tracebacks: they would cost time and memory"
    assert stopped[1] == (None,)


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


def test_peaks_are_the_allocators(cuda: Cuda) -> None:
    device = CudaDevice()
    assert (device.allocated_peak(), device.reserved_peak()) == (1024, 2**21)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["adamw", "galore"])
@pytest.mark.parametrize("model", ["9m", "60m"])
def test_trace_and_a_real_gpu_agree(model: str, method: str, dtype: str) -> None:
    (scenario,) = plan([model], [method], dtype=dtype, device="cuda", batch_size=2, seq_len=64)
    expected = trace(scenario)
    device = get_device("cuda")
    device.reset()
    seen, refresh = watch_memory(scenario, device)
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
