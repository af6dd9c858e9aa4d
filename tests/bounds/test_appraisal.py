"""A device beside its data sheet, by a scripted clock. Oracles: rates and shares by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import memprof.bounds.appraisal
from memprof.bounds.appraisal import appraise, choose
from memprof.bounds.ceilings import Sizes
from memprof.device import CpuDevice
from memprof.errors import MemprofError, UnsupportedError

Fake = Callable[..., Any]
SMALL = Sizes(copied=2**20, side=16, in_window=1)


@pytest.fixture
def gpu(fake_device: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A device that calls itself a GPU; each window takes the next of `seconds`, the first of four to warm up."""

    def make(name: str | None, *seconds: float) -> Any:
        device = fake_device(kind="cuda", ticks=[tick for each in seconds for tick in (each, 1.0)])
        monkeypatch.setattr(device, "describe", lambda: {"device": "cuda", "gpu": name})
        return device

    return make


def test_shares_by_hand(gpu: Fake) -> None:
    """Of an H200: 4.8 TB/s and 989.5 TFLOP/s; windows that take what 80 % and 50 % of these would."""
    copy, product = 2 * 2**20 / (0.8 * 4.8e12), 2 * 16**3 / (0.5 * 989.5e12)
    found = appraise(gpu("NVIDIA H200", *[copy] * 21, *[product] * 63), SMALL)
    assert [line.what for line in found.lines] == ["copy", "bf16 product", "fp16 product", "fp32 product"]
    shares = [line.share for line in found.lines]
    assert shares == pytest.approx([0.8, 0.5, 0.5, 0.5 * 989.5 / 67], rel=1e-3)
    headers, rows = found.table()
    assert headers == ["Ceiling", "Measured", "Data sheet", "Reached", "Note"]
    assert rows[0] == ["copy", "3.84 (3.84-3.84) TB/s", "4.80 TB/s", "80.0 %", ""]
    assert rows[1][2:] == ["990 TFLOP/s", "50.0 %", ""] and rows[3][-1] == "TF32 off"
    assert "H200 datasheet" in found.caption()[1]


def test_the_copy_is_made_once(gpu: Fake) -> None:
    """One to warm up and three that count, of a copy and of three products; each takes a second."""
    device = gpu(None)
    appraise(device, SMALL)
    assert device.calls.count("seconds") == 4 * 4


def test_tf32_stands_beside_its_own_peak(gpu: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprof.bounds.ceilings.allows_tf32", lambda: True)
    line = appraise(gpu("NVIDIA H200"), SMALL).lines[-1]
    assert (line.peak, line.note) == (494.5e12, "TF32 on")


def test_an_unknown_gpu_has_no_data_sheet(gpu: Fake) -> None:
    found = appraise(gpu("NVIDIA Unheard-of"), SMALL)
    assert (found.device, found.sheet) == ("NVIDIA Unheard-of", None)
    assert found.table()[0] == ["Ceiling", "Measured", "Note"] and "No data sheet" in found.caption()[1]


def test_a_dtype_without_products_keeps_its_line(gpu: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.mm

    def picky(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", picky)
    found = appraise(gpu("NVIDIA H200"), SMALL)
    half = next(line for line in found.lines if line.what == "fp16 product")
    assert half.rate is None and "multiplies no float16" in half.note
    said = found.to_dict()["matrix_flops"]
    assert said["fp16"]["per_second"] is None and said["bf16"]["per_second"]["median"] == 2 * 16**3


def test_the_document_is_in_bytes_and_flops_a_second(fake_device: Fake) -> None:
    said = appraise(fake_device(), dataclasses.replace(SMALL, in_window=2)).to_dict()
    assert said["copy_bytes"]["per_second"] == {"median": 2**22, "low": 2**22, "high": 2**22}
    assert said["matrix_flops"]["fp32"]["per_second"]["median"] == 4 * 16**3
    assert (said["device"], said["data_sheet"], said["copied_bytes"]) == ("cpu", None, 2**20)


def test_a_gpu_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.bounds.appraisal, "has_cuda", lambda: False)
    assert isinstance(choose(None), CpuDevice)
    with pytest.raises(UnsupportedError, match="--device cuda: torch sees no CUDA device here; use --device cpu"):
        choose("cuda")
    with pytest.raises(MemprofError, match="unknown device 'tpu'; choose from cuda, cpu"):
        choose("tpu")
