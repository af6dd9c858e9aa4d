"""Runs one cell: formula and trace here, measurement in a process of its own, whatever becomes of it.

A measured child gets the scenario as JSON on its standard input and answers with JSON on its standard output; this
process holds no tensors and unpickles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memprof.catalogue import METHODS, get_method
from memprof.child import MAX_ANSWER, NO_ANSWER, CellError, ask_child, one_line
from memprof.device import get_device
from memprof.errors import MemprofError, UnsupportedError
from memprof.formula import formula
from memprof.headroom import MAX_FRACTION, Headroom
from memprof.measure import DEFAULT_STEPS, measure
from memprof.record import STATUSES, Measured, Record, measured_from_dict
from memprof.scenario import Scenario
from memprof.shapes import LlamaShape
from memprof.trace import trace

DEFAULT_TIMEOUT = 1_800.0
"""seconds one measured cell may take"""
DESCRIBE_TIMEOUT = 120.0


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
    try:
        measured = _measure(scenario, steps, timeout, Headroom.of(traced, max_fraction))
    except CellError as error:
        return Record(**identity, trace=traced, status=error.status, reason=str(error))
    reason = None if measured.loss_last is not None else "the loss is not finite: the training diverged"
    return Record(**identity, trace=traced, measured=measured, reason=reason)


def unfinished(scenario: Scenario, status: str, reason: str) -> Record:
    """A record of a cell that nobody ran."""
    return Record(id=scenario.id, scenario=plain(scenario.to_dict()), status=status, reason=reason)


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data as JSON gives it back: tuples become lists."""
    return dict(json.loads(json.dumps(data)))


def _measure(scenario: Scenario, steps: int, timeout: float, headroom: Headroom) -> Measured:
    """In a child where the method has a name to send; a user's own Method object is measured right here."""
    if METHODS.get(scenario.method.name) is type(scenario.method):
        return measure_in_child(scenario, steps, timeout, headroom)
    return guarded_measure(scenario, steps, headroom)


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
        status = "oom" if "can't allocate memory" in str(error) else "crashed"
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
    return read_answer(*ask_child(request, timeout))


def describe_device(kind: str) -> dict[str, Any]:
    """What the device is called, asked in a child: here, the question alone would set up a context on a GPU."""
    answer, code, last_words = ask_child({"describe": kind}, DESCRIBE_TIMEOUT)
    try:
        return dict(json.loads(answer)["described"])
    except (ValueError, KeyError, TypeError):
        raise UnsupportedError(one_line(f"device {kind} does not answer (exit {code}): {last_words}")) from None


def read_answer(answer: bytes, code: int, last_words: str) -> Measured:
    """A child's answer, checked; anything else than a measurement raises `CellError`."""
    if code < 0:
        status = "oom" if code == -9 else "crashed"
        why = "killed, as the system does when memory runs out" if code == -9 else f"died of signal {-code}"
        raise CellError(status, f"the measuring process was {why}" if code == -9 else f"the measuring process {why}")
    if code != 0:
        raise CellError("crashed", one_line(f"the measuring process failed (exit {code}): {last_words}"))
    try:
        if len(answer) > MAX_ANSWER:
            raise ValueError("too long")
        data = json.loads(answer)
        if data.get("status") in STATUSES[1:]:
            raise CellError(data["status"], one_line(str(data["reason"])))
        return measured_from_dict(data["measured"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemprofError):
        raise CellError("crashed", NO_ANSWER) from None


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
