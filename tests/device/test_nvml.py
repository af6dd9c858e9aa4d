"""NVML through a fake library: one GPU found by its UUID, read and never set, and a reason where it does not answer.

What the fake answers is nvml.h's documentation: bits, units, the value of a size that is not available.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from memprof.device import Conditions, Usage
from memprof.device.nvml import (
    COMPUTE,
    GRAPHICS,
    NO_DRIVER,
    NO_LIST,
    NO_PACKAGE,
    NOBODY,
    NOT_SAID,
    REASONS,
    SLOWDOWNS,
    NoNvmlError,
    Nvml,
)

OWN = os.getpid()


class NVMLError(Exception):
    pass


class NVMLLibraryMismatchError(Exception):
    """Of the package where the driver lacks the version of a function that it asks for. It is no NVMLError there."""


class Library:
    """A pynvml that knows one GPU. Whatever is not a question is refused."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError

    def __init__(self, uuid: str = "GPU-12ab", **facts: Any) -> None:
        self.uuid = uuid
        self.facts = {"processes": (), "drawing": (), "energy": 5_000, "driver": "580", "milliwatts": 350_500,
                      "celsius": 61, "mhz": 1_980, "reasons": 0} | facts  # fmt: skip

    def __getattribute__(self, name: str) -> Any:
        asks = name in ("nvmlInit", "NVMLError", "NVMLLibraryMismatchError") or name.startswith(
            ("nvmlDeviceGet", "nvmlSystemGet")
        )
        if not asks and name not in ("uuid", "facts", "_of", "_answer"):
            raise AssertionError(f"{name} is not a question to the GPU")
        return super().__getattribute__(name)

    def _of(self, handle: str, fact: str) -> Any:
        assert handle == f"handle of {self.uuid}"
        return self._answer(fact)

    def _answer(self, fact: str) -> Any:
        for error in (NVMLError, NVMLLibraryMismatchError):
            if self.facts[fact] is error:
                raise error("not supported")
        return self.facts[fact]

    def nvmlInit(self) -> None:
        if self.facts["driver"] is OSError:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise NVMLError("not found")
        return f"handle of {uuid}"

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._answer("driver")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        return self._of(handle, "processes")

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> Any:
        return self._of(handle, "drawing")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> Any:
        return self._of(handle, "energy")

    def nvmlDeviceGetPowerUsage(self, handle: str) -> Any:
        return self._of(handle, "milliwatts")

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> Any:
        assert sensor == 0, "NVML_TEMPERATURE_GPU"
        return self._of(handle, "celsius")

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> Any:
        assert clock == 1, "NVML_CLOCK_SM"
        return self._of(handle, "mhz")


class Newer(Library):
    """A package that knows the reasons for low clocks by their newer name."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> Any:
        return self._of(handle, "reasons")


class Older(Library):
    """The same by their older one."""

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> Any:
        return self._of(handle, "reasons")


class NewerOverOldDriver(Older):
    """A package that knows both names over a driver that knows the older one."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> Any:
        raise NVMLError("function not found")


def process(pid: int, nbytes: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=nbytes)


def nvml(monkeypatch: pytest.MonkeyPatch, library: Any = Library, **facts: Any) -> Nvml:
    monkeypatch.setitem(sys.modules, "pynvml", library(**facts))
    return Nvml.of("12ab")


def why_not(monkeypatch: pytest.MonkeyPatch, library: Library | None, uuid: str = "12ab") -> str:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    with pytest.raises(NoNvmlError) as caught:
        Nvml.of(uuid)
    return str(caught.value)


@pytest.mark.parametrize("known", ["GPU-12ab", "MIG-12ab"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_a_gpu_and_a_mig_slice_are_found_with_or_without_their_prefix(
    monkeypatch: pytest.MonkeyPatch, known: str, prefixed: bool
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library(uuid=known))
    assert Nvml.of(known if prefixed else "12ab").handle == f"handle of {known}"


def test_a_slice_is_not_taken_for_a_gpu_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no GPU MIG-12ab" in why_not(monkeypatch, Library(uuid="GPU-12ab"), "MIG-12ab")


def test_why_there_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not(monkeypatch, None) == NO_PACKAGE
    assert why_not(monkeypatch, Library(driver=OSError)) == NO_DRIVER
    assert why_not(monkeypatch, Library(uuid="GPU-other")) == "the driver knows no GPU GPU-12ab"


def test_the_package_has_every_name_that_is_asked_for() -> None:
    """A name spelled wrongly would be taken for a question that is not supported."""
    import pynvml

    asked = {name for kind in (Newer, Older) for name in dir(kind) if name.startswith(("nvml", "NVML"))}
    assert {*REASONS, COMPUTE, GRAPHICS} <= asked
    assert [name for name in sorted(asked) if not hasattr(pynvml, name)] == []
    assert pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value == 2**64 - 1
    bits = [getattr(pynvml, f"nvmlClocksEventReason{name}") for name in
            ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")]  # fmt: skip
    assert list(SLOWDOWNS) == bits
    assert (pynvml.NVML_TEMPERATURE_GPU, pynvml.NVML_CLOCK_SM) == (0, 1)


def test_the_fake_refuses_what_sets_something() -> None:
    for name in ("nvmlDeviceSetPowerManagementLimit", "nvmlDeviceResetGpuLockedClocks", "nvmlShutdown"):
        with pytest.raises(AssertionError, match="not a question"):
            getattr(Library(), name)


def test_own_bytes_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, processes=[process(OWN + 1, 7), process(OWN, 1_000), process(OWN + 2, None)])
    assert seen.usage(held=900) == Usage(1_000)
    assert seen.others() == 2


def test_the_only_process_there_is_this_one_whatever_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container counts processes in a space of its own, and NVML counts the host's."""
    seen = nvml(monkeypatch, processes=[process(OWN + 1, 1_000)])
    assert seen.usage(held=1_000) == Usage(1_000)
    assert seen.others() == 0
    fewer = seen.usage(held=1_001)
    assert fewer.nbytes is None and fewer.reason == (
        "the driver says 1000 bytes, fewer than the 1001 that the allocator holds"
    )


def test_no_bytes_of_this_very_process_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some drivers translate the number of a process in a container and then say that it uses nothing."""
    assert nvml(monkeypatch, processes=[process(OWN, 0)]).usage(held=512).nbytes is None
    assert nvml(monkeypatch, processes=[process(OWN, 0)]).usage(held=0) == Usage(0)


def test_one_of_several_strangers_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, processes=[process(OWN + 1, 1_000), process(OWN + 2, 5)])
    usage = seen.usage(held=900)
    assert usage.nbytes is None and usage.reason is not None and "among the 2" in usage.reason
    assert seen.others() == 1, "one of the two is this one"


@pytest.mark.parametrize(
    ("processes", "reason"),
    [([], NOBODY), (NVMLError, NO_LIST), (NVMLLibraryMismatchError, NO_LIST)],
    ids=["hidden by a container", "not supported", "an old driver"],
)
def test_unseen_is_none_and_not_zero(monkeypatch: pytest.MonkeyPatch, processes: object, reason: str) -> None:
    seen = nvml(monkeypatch, processes=processes)
    assert seen.usage(held=0) == Usage(None, reason)
    assert seen.others() is None


@pytest.mark.parametrize("unsaid", [None, 2**64 - 1])
@pytest.mark.parametrize("pid", [OWN, OWN + 1], ids=["own", "other"])
def test_bytes_that_the_driver_does_not_say_are_none(
    monkeypatch: pytest.MonkeyPatch, unsaid: int | None, pid: int
) -> None:
    seen = nvml(monkeypatch, processes=[process(pid, unsaid)])
    assert seen.usage(held=0) == Usage(None, NOT_SAID)
    assert seen.others() == 0


def test_who_draws_counts_too_and_who_does_both_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computing = [process(OWN, 1_000), process(OWN + 1, 5)]
    drawing = [process(OWN, 900), process(OWN + 1, 2**64 - 1), process(OWN + 2, 3)]
    seen = nvml(monkeypatch, processes=computing, drawing=drawing)
    assert (seen.usage(held=950), seen.others()) == (Usage(1_000), 2)
    assert nvml(monkeypatch, processes=computing, drawing=NVMLError).others() == 1


def test_conditions_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, processes=[process(OWN, 8), process(OWN + 1, 8)]).conditions()
    assert seen == Conditions(others=1, slowdowns=(), watts=350.5, celsius=61, sm_mhz=1_980)


def test_each_condition_that_is_not_supported_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MIG slice has no clocks, heat and power of its own."""
    facts = dict.fromkeys(("processes", "milliwatts", "celsius", "mhz", "reasons", "energy", "driver"), NVMLError)
    seen = nvml(monkeypatch, Newer, **facts)
    assert seen.conditions() == Conditions()
    assert (seen.joules(), seen.driver()) == (None, None)


IDLE, POWER_CAP, CLOCKS_SET = 0x01, 0x04, 0x02
ALL_SLOW = ("hardware slowdown", "software thermal slowdown", "hardware thermal slowdown", "hardware power brake")


@pytest.mark.parametrize("library", [Newer, Older, NewerOverOldDriver])
@pytest.mark.parametrize(
    ("reasons", "named"),
    [
        (0, ()),
        (IDLE | POWER_CAP | CLOCKS_SET, ()),
        (0x08 | 0x40 | POWER_CAP, ("hardware slowdown", "hardware thermal slowdown")),
        (0x20, ("software thermal slowdown",)),
        (0x80, ("hardware power brake",)),
        (0xFFF, ALL_SLOW),
    ],
)
def test_heat_and_power_failures_are_named_and_what_is_normal_is_not(
    monkeypatch: pytest.MonkeyPatch, library: Any, reasons: int, named: tuple[str, ...]
) -> None:
    assert nvml(monkeypatch, library, reasons=reasons).conditions().slowdowns == named


def test_energy_comes_in_joules_and_the_driver_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = nvml(monkeypatch, energy=12_345, driver="580.65")
    assert (seen.joules(), seen.driver()) == (12.345, "580.65")
