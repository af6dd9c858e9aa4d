"""What the doctor finds on a machine without CUDA, with half of it, and with all."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import memprof.doctor
from memprof.device import Conditions, Usage
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


SEEN, CALM = Usage(5), Conditions()


def with_gpu(
    monkeypatch: pytest.MonkeyPatch, nvml: Any, usage: Usage = SEEN, now: Conditions = CALM, joules: Any = 1.0
) -> dict[str, str]:
    """A GPU on which this process has a context once its free bytes were asked for."""
    monkeypatch.setattr(memprof.doctor, "has_cuda", lambda: True)
    contexts: list[int] = []
    device = SimpleNamespace(
        nvml=nvml,
        no_nvml="the driver is away",
        joules=lambda: joules,
        describe=lambda: {"gpu": "NVIDIA Fake"},
        total_bytes=lambda: 2**36,
        free_bytes=lambda: contexts.append(1),
        usage=lambda: usage if contexts else Usage(None, "no context"),
        conditions=lambda: now if contexts else Conditions(),
    )
    monkeypatch.setattr(memprof.doctor, "CudaDevice", lambda: device)
    return dict(findings())


DRIVER = SimpleNamespace(driver=lambda: "580.65")


def test_a_whole_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_gpu(monkeypatch, DRIVER, now=Conditions(others=0))
    assert found["CUDA"] == "NVIDIA Fake, 64.00 GiB"
    assert (found["NVML"], found["process memory"]) == ("driver 580.65", "seen")
    assert (found["other processes"], found["clocks"]) == ("none on the GPU", "not held down now")
    assert found["energy"] == "counter is there"
    assert found["measure --device cuda"] == "yes, by default"


def test_a_gpu_that_hides_things(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_gpu(monkeypatch, DRIVER, usage=Usage(None, "it hides"), joules=None)
    assert found["process memory"] == "no: it hides"
    assert found["other processes"].startswith("not known")
    assert found["energy"] == "no counter on this GPU"


def test_a_gpu_that_others_use_and_heat_holds_down(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_gpu(monkeypatch, DRIVER, now=Conditions(others=2, slowdowns=("hardware slowdown", "power brake")))
    assert found["other processes"] == "2 on the GPU: what is measured now is flagged contaminated"
    assert found["clocks"] == "held down now: hardware slowdown, power brake"


def test_a_gpu_whose_library_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_gpu(monkeypatch, None)["NVML"] == "no: the driver is away"
