"""What the doctor finds on a machine without CUDA, with half of it, and with all."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import memprof.doctor
from memprof.doctor import findings


def test_a_machine_without_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.doctor, "has_cuda", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = dict(findings())
    assert found["CUDA"] == "no: this torch is built without CUDA"
    assert found["measure --device cuda"] == "no: see CUDA above"
    assert found["measure --device cpu"].startswith("yes")
    assert found["formula and trace"].startswith("yes")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert dict(findings())["CUDA"] == "no: torch finds no usable GPU or driver"


@pytest.mark.parametrize(("cores", "said"), [(1, "1 core, torch uses 1 thread"), (2, "2 cores, torch uses 2 threads")])
def test_the_processor_is_counted_as_it_is_said(monkeypatch: pytest.MonkeyPatch, cores: int, said: str) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert dict(findings())["processor"] == said


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memprof.doctor, "has_cuda", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "nvidia-ml-py" in dict(findings())["NVML"]


def with_gpu(monkeypatch: pytest.MonkeyPatch, nvml: Any, joules: float | None = 1.0) -> dict[str, str]:
    monkeypatch.setattr(memprof.doctor, "has_cuda", lambda: True)
    describe, total = (lambda: {"gpu": "NVIDIA Fake"}), (lambda: 2**36)
    device = SimpleNamespace(nvml=nvml, joules=lambda: joules, describe=describe, total_bytes=total)
    monkeypatch.setattr(memprof.doctor, "CudaDevice", lambda: device)
    return dict(findings())


def test_a_whole_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_gpu(monkeypatch, SimpleNamespace(own_bytes=lambda: 5, driver=lambda: "580.65"))
    assert found["CUDA"] == "NVIDIA Fake, 64.00 GiB"
    assert (found["NVML"], found["process memory"]) == ("driver 580.65", "seen")
    assert found["energy"] == "counter is there"
    assert found["measure --device cuda"] == "yes, by default"


def test_a_gpu_that_hides_things(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_gpu(monkeypatch, SimpleNamespace(own_bytes=lambda: None, driver=lambda: "580.65"), joules=None)
    assert found["process memory"].startswith("hidden")
    assert found["energy"] == "no counter on this GPU"


def test_a_gpu_whose_library_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_gpu(monkeypatch, None)["NVML"] == "no: the driver's library did not answer"
