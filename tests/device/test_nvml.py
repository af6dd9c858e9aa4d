"""NVML through a fake library: one GPU found by its UUID, read and never set, and silence where it cannot answer."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from memprof.device.nvml import Nvml


class NVMLError(Exception):
    pass


class Library:
    """A pynvml that knows one GPU. Reading anything that sets something is an error."""

    NVMLError = NVMLError

    def __init__(self, uuid: str = "GPU-12ab", processes: object = (), energy: object = 5_000, driver: object = "580"):
        self.uuid, self.processes, self.energy, self.driver = uuid, processes, energy, driver

    def __getattribute__(self, name: str) -> Any:
        if "Set" in name or "Reset" in name:
            raise AssertionError(f"{name} changes the GPU")
        return super().__getattribute__(name)

    def _answer(self, value: object) -> Any:
        if value is NVMLError:
            raise NVMLError("not supported")
        return value

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise NVMLError("not found")
        return f"handle of {uuid}"

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._answer(self.driver)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        assert handle == f"handle of {self.uuid}"
        return self._answer(self.processes)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> Any:
        assert handle == f"handle of {self.uuid}"
        return self._answer(self.energy)


def process(pid: int, nbytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=nbytes)


def nvml(monkeypatch: pytest.MonkeyPatch, uuid: str = "12ab", **facts: Any) -> Nvml:
    monkeypatch.setitem(sys.modules, "pynvml", Library(**facts))
    found = Nvml.of(uuid)
    assert found is not None
    return found


OWN = os.getpid()


@pytest.mark.parametrize("uuid", ["12ab", "GPU-12ab"])
def test_the_gpu_is_found_by_its_uuid_with_or_without_its_prefix(monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    assert nvml(monkeypatch, uuid).handle == "handle of GPU-12ab"


def test_a_mig_slice_is_found_by_its_own_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library(uuid="MIG-7"))
    found = Nvml.of("MIG-7")
    assert found is not None and found.handle == "handle of MIG-7"


def test_an_unknown_gpu_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library(uuid="GPU-other"))
    assert Nvml.of("12ab") is None


def test_an_absent_package_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml.of("12ab") is None


def test_an_absent_driver_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(library, "nvmlInit", lambda: library._answer(NVMLError))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert Nvml.of("12ab") is None


def test_own_bytes_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, processes=[process(OWN + 1, 7), process(OWN, 1_000), process(OWN + 2, None)])
    assert seen.own_bytes() == 1_000
    assert seen.others() == 2


@pytest.mark.parametrize(
    "processes", [[], [process(OWN + 1, 7)], NVMLError], ids=["nobody", "pid hidden by a container", "not supported"]
)
def test_unseen_is_none_and_not_zero(monkeypatch: pytest.MonkeyPatch, processes: object) -> None:
    seen = nvml(monkeypatch, processes=processes)
    assert seen.own_bytes() is None
    assert seen.others() is None


def test_bytes_that_the_driver_does_not_say_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, processes=[process(OWN, None)])
    assert seen.own_bytes() is None
    assert seen.others() == 0


def test_energy_comes_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml(monkeypatch, energy=12_345).joules() == 12.345
    assert nvml(monkeypatch, energy=NVMLError).joules() is None


def test_the_driver_is_named_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml(monkeypatch, driver="580.65").driver() == "580.65"
    assert nvml(monkeypatch, driver=NVMLError).driver() is None
