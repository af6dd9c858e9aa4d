"""What this machine has, and what can be measured on it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform

import psutil
import torch

from memprof.api import environment
from memprof.bounds.appraisal import Appraisal
from memprof.device import CudaDevice, has_cuda
from memprof.record import SCHEMA_VERSION
from memprof.units import counted, format_size

YES_EVERYWHERE = "yes, for every method and model: both need no device"


def findings() -> list[tuple[str, str]]:
    """(what, finding) in the order a reader asks."""
    facts = environment()
    host = [
        ("memprof", str(facts["memprof"])),
        ("Python", platform.python_version()),
        (
            "torch",
            f"{torch.__version__}, built {f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU-only'}",
        ),
        ("processor", _processor()),
        ("memory", f"{format_size(psutil.virtual_memory().total)} GiB"),
    ]
    return [*host, *_cuda(), *_nvml(), *_can_do()]


def document(found: list[tuple[str, str]], appraisal: Appraisal | None) -> str:
    """The same as JSON; ceilings are null where they were not measured."""
    ceilings = None if appraisal is None else appraisal.to_dict()
    return json.dumps({"schema_version": SCHEMA_VERSION, "findings": dict(found), "ceilings": ceilings}, indent=1)


def _processor() -> str:
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{counted(cores, 'core') if cores else 'cores unknown'}, torch uses {counted(threads, 'thread')}"


def _cuda() -> list[tuple[str, str]]:
    if not has_cuda():
        why = (
            "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no usable GPU or driver"
        )
        return [("CUDA", f"no: {why}")]
    device = CudaDevice()
    return [("CUDA", f"{device.describe()['gpu']}, {format_size(device.total_bytes())} GiB")]


def _nvml() -> list[tuple[str, str]]:
    if importlib.util.find_spec("pynvml") is None:
        return [("NVML", "no: the package nvidia-ml-py (module pynvml) is not installed")]
    if not has_cuda():
        return [("NVML", "package nvidia-ml-py is there; no GPU to ask about")]
    device = CudaDevice()
    if device.nvml is None:
        return [("NVML", f"no: {device.no_nvml}")]
    device.free_bytes()  # sets up a context, without which this process is none of the GPU's
    usage, now = device.usage(), device.conditions()
    return [
        ("NVML", f"driver {device.nvml.driver()}"),
        ("process memory", "seen" if usage.nbytes is not None else f"no: {usage.reason}"),
        ("other processes", _others(now.others)),
        ("clocks", f"held down now: {', '.join(now.slowdowns)}" if now.slowdowns else "not held down now"),
        ("energy", "counter is there" if device.joules() is not None else "no counter on this GPU"),
    ]


def _others(count: int | None) -> str:
    if count is None:
        return "not known: the driver lists none, not even this one"
    return f"{count} on the GPU: what is measured now is flagged contaminated" if count else "none on the GPU"


def _can_do() -> list[tuple[str, str]]:
    return [
        ("formula and trace", YES_EVERYWHERE),
        ("measure --device cpu", "yes: torch's allocator events, step times, resident set"),
        ("measure --device cuda", "yes, by default" if has_cuda() else "no: see CUDA above"),
    ]
