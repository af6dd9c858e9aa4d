"""A made history of the CUDA caching allocator, as torch documents its entries, for tests by hand."""

from __future__ import annotations

from typing import Any

from memprof.device.allocator_history import ALLOC, FREE, Counts

W, G, S, A, T, CUBLAS, OLD = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000, 0x7000
GALORE = "/site/memprof/methods/galore.py"


def frame(filename: str, line: int) -> dict[str, Any]:
    return {"filename": filename, "line": line, "name": "step"}


def entry(action: str, addr: int = 0, size: int = 0, *frames: dict[str, Any]) -> dict[str, Any]:
    """An entry of device_traces; one of out-of-memory has device_free where the others have addr."""
    place = {"device_free": 7} if action == "oom" else {"addr": addr}
    return {"action": action, "size": size, "stream": 0, "frames": list(frames), **place}


def alloc(addr: int, size: int, *frames: dict[str, Any]) -> dict[str, Any]:
    return entry("alloc", addr, size, *frames)


def free(addr: int, size: int) -> list[dict[str, Any]]:
    return [entry("free_requested", addr, size), entry("free_completed", addr, size)]


def counts(history: list[dict[str, Any]]) -> Counts:
    """What the allocator had counted when this was its whole history."""
    actions = [item["action"] for item in history]
    return Counts(actions.count(ALLOC), actions.count(FREE))


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
    alloc(A, 700, frame("/site/torch/_ops.py", 9), frame(GALORE, 120)),  # the optimizer begins at entry 20
    *free(A, 700),
    *free(G, 1000),
]
BORDERS = [7, 12, 20, len(HISTORY)]
MARKS = [counts(HISTORY[:border]) for border in BORDERS]
END = counts(HISTORY)
