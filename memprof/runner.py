"""Runs one cell: formula and trace here, measurement in a process of its own, whatever becomes of it.

A measured child gets the scenario as JSON on its standard input and answers with JSON on its standard output; this
process holds no tensors and unpickles nothing. Only a user's own `Method` object, which has no name that could be sent,
is measured here, and its record says so.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memprof.catalogue import METHODS, get_method
from memprof.child import MAX_ANSWER, NO_ANSWER, CellError, Reply, ask_child, one_line
from memprof.device import get_device
from memprof.errors import MemprofError, UnsupportedError
from memprof.formula import formula
from memprof.headroom import MAX_FRACTION, Headroom
from memprof.measure import DEFAULT_STEPS, measure
from memprof.method import Method
from memprof.oom import OomKills
from memprof.record import STATUSES, Measured, Record, measured_from_dict
from memprof.scenario import Scenario
from memprof.shapes import LlamaShape
from memprof.trace import trace

DEFAULT_TIMEOUT = 1_800.0
"""seconds one measured cell may take"""
DESCRIBE_TIMEOUT = 120.0
IN_PROCESS = "in-process"
"""flag of a cell that was measured in the calling process, beside all that this one holds; nothing bounds its time"""
MEASURED_HERE = "measured in the calling process: a method of your own is not sent to one of its own"
DIVERGED = "the loss is not finite: the training diverged"
NO_ROOM = ("can't allocate memory", "out of memory", "_alloc_failed")
"""how torch says so where it has no `OutOfMemoryError`: its CPU allocator, a CUDA call, cuBLAS and cuSOLVER"""


def run_cell(
    scenario: Scenario,
    *,
    steps: int = DEFAULT_STEPS,
    timeout: float = DEFAULT_TIMEOUT,
    max_fraction: float = MAX_FRACTION,
) -> Record:
    """A record of the scenario; what goes wrong in running it becomes the record's status and reason."""
    predicted = formula(scenario)
    identity: dict[str, Any] = {"id": scenario.id, "scenario": plain(scenario.to_dict()), "formula": predicted}
    try:
        traced = trace(scenario)
    except MemprofError:
        raise
    except Exception as error:
        return Record(**identity, status="crashed", reason=one_line(f"trace: {type(error).__name__}: {error}"))
    if scenario.device is None:
        return Record(**identity, trace=traced)
    here = not _has_a_name(scenario.method)
    identity |= {"trace": traced, "flags": (IN_PROCESS,) if here else ()}
    room = Headroom.of(traced, max_fraction)
    try:
        measured = guarded_measure(scenario, steps, room) if here else measure_in_child(scenario, steps, timeout, room)
    except CellError as error:
        return Record(**identity, status=error.status, reason=str(error))
    told = [DIVERGED] * (measured.loss_last is None) + [MEASURED_HERE] * here
    return Record(**identity, measured=measured, reason="; ".join(told) or None)


def unfinished(scenario: Scenario, status: str, reason: str) -> Record:
    """A record of a cell that nobody ran."""
    return Record(id=scenario.id, scenario=plain(scenario.to_dict()), status=status, reason=reason)


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data as JSON gives it back: tuples become lists."""
    return dict(json.loads(json.dumps(data)))


def _has_a_name(method: Method) -> bool:
    """Whether a child finds the method by its name. A user's own class has none that may be sent: it would be code."""
    return METHODS.get(method.name) is type(method)


def guarded_measure(scenario: Scenario, steps: int, headroom: Headroom) -> Measured:
    """Measure if there is room, with torch's errors told apart: out of memory, or anything else."""
    import torch

    assert scenario.device is not None
    try:
        device = get_device(scenario.device)
        headroom.check(device)
        return measure(scenario, device, steps)
    except CellError:
        raise
    except torch.OutOfMemoryError as error:
        raise CellError("oom", one_line(str(error))) from None
    except MemoryError:
        raise CellError("oom", "the host has no memory left") from None
    except RuntimeError as error:
        status = "oom" if any(words in str(error).lower() for words in NO_ROOM) else "crashed"
        raise CellError(status, one_line(str(error))) from None
    except UnsupportedError as error:
        raise CellError("unsupported", one_line(str(error))) from None
    except MemprofError:
        raise
    except Exception as error:
        raise CellError("crashed", one_line(f"{type(error).__name__}: {error}")) from None


def measure_in_child(scenario: Scenario, steps: int, timeout: float, headroom: Headroom) -> Measured:
    """Measure in a fresh Python process; its crash, hang or rubbish is this cell's status and nothing more."""
    request = {"scenario": scenario.to_dict(), "steps": steps, "headroom": asdict(headroom)}
    return read_answer(ask_child(request, timeout))


def describe_device(kind: str) -> dict[str, Any]:
    """What the device is called, asked in a child: here, the question alone would set up a context on a GPU."""
    try:
        reply = ask_child({"describe": kind}, DESCRIBE_TIMEOUT)
    except CellError:
        raise UnsupportedError(
            f"device {kind} gives no answer that can be used within {DESCRIBE_TIMEOUT:g} s"
        ) from None
    try:
        return dict(json.loads(reply.answer)["described"])
    except (ValueError, KeyError, TypeError):
        why = f"device {kind} does not answer (exit {reply.code}): {reply.last_words}"
        raise UnsupportedError(one_line(why)) from None


def read_answer(reply: Reply) -> Measured:
    """A child's answer, checked; anything else than a measurement raises `CellError`."""
    if reply.code == -signal.SIGKILL:
        raise _killed(reply.oom_before, reply.oom_after)
    if reply.code < 0:
        raise CellError("crashed", f"the measuring process died of signal {-reply.code}")
    if reply.code != 0:
        raise CellError("crashed", one_line(f"the measuring process failed (exit {reply.code}): {reply.last_words}"))
    try:
        if len(reply.answer) > MAX_ANSWER:
            raise ValueError("too long")
        data = json.loads(reply.answer)
        if data.get("status") in STATUSES[1:]:
            raise CellError(data["status"], one_line(str(data["reason"])))
        return measured_from_dict(data["measured"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemprofError):
        raise CellError("crashed", NO_ANSWER) from None


def _killed(before: OomKills, after: OomKills) -> CellError:
    """By the kernel for memory, or by somebody else: its count tells. Where there is none, memory is likeliest."""
    killed = after.since(before)
    if killed is None:
        why = "perhaps by the kernel's out-of-memory killer; nothing here counts its kills"
        return CellError("oom", f"the measuring process was killed by signal 9, {why}")
    if killed <= 0:
        why = "though the kernel counted no out-of-memory kill: a job scheduler's limit, or somebody else's doing"
        return CellError("crashed", f"the measuring process was killed by signal 9, {why}")
    counter = f"oom_kill in {after.source} went from {before.count} to {after.count}"
    return CellError("oom", f"the measuring process was killed by the kernel's out-of-memory killer ({counter})")


def scenario_from_dict(data: Mapping[str, Any]) -> Scenario:
    """The scenario that `to_dict` wrote; its method is looked up by name."""
    hyperparameters = {k: tuple(v) if isinstance(v, list) else v for k, v in data["hyperparameters"].items()}
    plain_fields = ("model", "batch_size", "accumulation", "seq_len", "dtype", "kernels", "checkpointing",
                    "loss_chunks", "clip_grad_norm", "counting", "device", "seed")  # fmt: skip
    return Scenario(
        shape=LlamaShape(**data["shape"]),
        method=get_method(data["method"], **hyperparameters),
        **{name: data[name] for name in plain_fields},
    )
