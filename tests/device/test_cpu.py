"""The processor as a device: each allocation with its size, its maker and its place between the marks."""

from __future__ import annotations

import torch

from memprof.device import Allocation, CpuDevice, get_device, resident_bytes

MIB = 2**20


def allocations(events: list[Allocation | int]) -> list[Allocation]:
    return [event for event in events if isinstance(event, Allocation)]


def test_events_by_hand() -> None:
    with CpuDevice().record() as recording:
        recording.mark()
        first = torch.zeros(300, dtype=torch.float32)
        address = first.data_ptr()
        recording.mark()
        second = torch.ones(70, dtype=torch.int64)
        del first
        recording.mark()
    del second
    marks = [event for event in recording.events if not isinstance(event, Allocation)]
    assert marks == [0, 1, 2]
    one, two = (recording.events.index(mark) for mark in (1, 2))
    sizes = [event.nbytes for event in allocations(recording.events)]
    assert sizes == [1200, 560, -1200]
    begin, end = allocations(recording.events[:one]), allocations(recording.events[one:two])
    assert begin == [Allocation(address, 1200, "aten::zeros")]
    assert [(event.nbytes, event.maker) for event in end if event.nbytes > 0] == [(560, "aten::ones")]
    assert end[-1].address == address, "a free names the block that it gives back"


def test_a_workspace_inside_a_kernel_is_seen_and_named() -> None:
    """No dispatcher sees what eigh takes for LAPACK; the allocator does."""
    square = torch.eye(64)
    with CpuDevice().record() as recording:
        values, vectors = torch.linalg.eigh(square)
    kept = 64 * 4 + 64 * 64 * 4
    made = [event for event in allocations(recording.events) if event.nbytes > 0]
    assert sum(event.nbytes for event in made) > kept
    assert {event.maker for event in made} & {"aten::linalg_eigh", "aten::_linalg_eigh"}
    del values, vectors


def test_backward_is_recorded_too() -> None:
    """Autograd may run in a thread of its own; its allocations come in the order of time all the same."""
    weight = torch.ones(1000, requires_grad=True)
    with CpuDevice().record() as recording:
        loss = weight.mul(2.0).sum()
        recording.mark()
        loss.backward()
        recording.mark()
    begin, end = recording.events.index(0), recording.events.index(1)
    made = {event.nbytes for event in allocations(recording.events[begin:end]) if event.nbytes > 0}
    assert 4000 in made, "the gradient"


def test_the_resident_set_is_below_its_high_water_mark() -> None:
    high = CpuDevice().usage().nbytes
    assert high is not None and MIB < resident_bytes() <= high + 64 * MIB  # the kernel counts in batches of pages


def test_what_a_processor_does_not_know_is_none() -> None:
    device = get_device("cpu")
    device.reset()
    device.reset_peak()
    device.synchronize()
    figures = (device.allocated_peak(), device.reserved(), device.joules(), device.conditions().others)
    assert figures == (None, None, None, None)
    assert device.describe()["gpu"] is None


def test_the_clock_counts_seconds() -> None:
    device = CpuDevice()
    assert device.seconds(1.5, 4.0) == 2.5
    assert device.now() <= device.now()
