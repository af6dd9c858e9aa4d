"""Ceilings, by a scripted clock. Oracles: rates by hand; what was asked of the device, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from memprof.bounds.ceilings import FEWEST, MOST, Rate, Sizes, measure_ceilings
from memprof.errors import UnsupportedError

Fake = Callable[..., Any]
SMALL = Sizes(copied=2**12, side=8, in_window=2)
COPIED = 2 * 2 * 2**12
"""bytes of a window: two copies, read and written"""
MULTIPLIED = 2 * 2 * 8**3


def ticks(*windows: float) -> list[float]:
    """A clock that is read at both ends of windows, which take these seconds, and idles a second between them."""
    return [tick for seconds in windows for tick in (seconds, 1.0)]


def test_rates_are_medians_and_keep_their_spread(fake_device: Fake) -> None:
    """By hand: a first window warms up; of 0.5, 0.25 and 1 s the median is 0.5 s."""
    device = fake_device(ticks=ticks(9, 0.5, 0.25, 1, 9, 2, 4, 8))
    found = measure_ceilings(device, torch.float32, sizes=SMALL)
    assert found.copy == Rate(median=COPIED / 0.5, least=COPIED / 1, most=COPIED / 0.25)
    assert found.matrix == Rate(median=MULTIPLIED / 4, least=MULTIPLIED / 8, most=MULTIPLIED / 2)
    assert (found.copy_bytes_per_second, found.matrix_flops_per_second) == (found.copy.median, found.matrix.median)
    assert (found.dtype, found.sizes, found.tf32) == (torch.float32, SMALL, None)


def test_each_window_lies_between_synchronisations_and_is_read_after(fake_device: Fake) -> None:
    device = fake_device(ticks=ticks(1, 1, 1, 1))
    measure_ceilings(device, torch.float32, sizes=SMALL, copy=Rate(1, 1, 1))
    assert device.calls == ["synchronize", "now", "now", "synchronize", "seconds"] * (1 + FEWEST)


def test_a_fast_device_is_asked_more_often_and_not_without_end(fake_device: Fake) -> None:
    device = fake_device(ticks=ticks(*[1e-6] * 100))
    measure_ceilings(device, torch.float32, sizes=SMALL, copy=Rate(1, 1, 1))
    assert device.calls.count("seconds") == 1 + MOST


def test_a_copy_that_is_known_is_not_made_again(fake_device: Fake) -> None:
    device, known = fake_device(ticks=ticks(*[1] * 4)), Rate(3.0, 2.0, 4.0)
    assert measure_ceilings(device, torch.bfloat16, sizes=SMALL, copy=known).copy is known


def test_operands_are_random_and_nobody_else_s_numbers_change(
    fake_device: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    multiply = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        seen.extend((a, b))
        multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    before = torch.get_rng_state()
    measure_ceilings(fake_device(), torch.float32, sizes=SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(operand.unique().numel() > 32 for operand in seen) and not torch.equal(seen[0], seen[1])


def test_a_dtype_that_is_not_multiplied_is_an_error_of_the_machine(
    fake_device: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError('"addmm_impl_cpu_" not implemented\nfor this')

    monkeypatch.setattr(torch, "mm", refuse)
    with pytest.raises(UnsupportedError, match="multiplies no bfloat16: .* not implemented for this"):
        measure_ceilings(fake_device(), torch.bfloat16, sizes=SMALL)


def test_too_little_memory_is_one_line(fake_device: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "mm", refuse)
    with pytest.raises(UnsupportedError, match="no room"):
        measure_ceilings(fake_device(), torch.bfloat16, sizes=SMALL)


def test_tf32_is_told_of_fp32_on_a_gpu_alone(fake_device: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(kind: str, dtype: torch.dtype) -> bool | None:
        return measure_ceilings(fake_device(kind=kind), dtype, sizes=SMALL).tf32

    assert found("cuda", torch.float32) is False
    monkeypatch.setattr("memprof.bounds.ceilings.allows_tf32", lambda: True)
    assert found("cuda", torch.float32) is True
    assert (found("cuda", torch.bfloat16), found("cpu", torch.float32)) == (None, None)


@pytest.mark.gpu
def test_a_gpu_does_what_its_data_sheet_says_within_reason() -> None:
    """Nothing is faster than its data sheet, nor ten times slower."""
    from memprof.bounds.datasheet import sheet_of
    from memprof.device import get_device

    device = get_device("cuda")
    sheet = sheet_of(device.describe()["gpu"])
    if sheet is None:
        pytest.skip("no data sheet of this GPU")
    found = measure_ceilings(device, torch.float16)
    assert 0.1 < found.copy_bytes_per_second / sheet.bytes_per_second < 1.02
    assert 0.1 < found.matrix_flops_per_second / sheet.flops["fp16"] < 1.02
