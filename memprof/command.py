"""The command line that makes records again, read from their scenarios."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from memprof.counting import COUNTINGS
from memprof.record import Record
from memprof.shapes import SHAPES
from memprof.spelling import spell_method

_OPTIONS = {"accumulation": 1, "dtype": "bf16", "loss_chunks": 1, "clip_grad_norm": None, "counting": "memprof",
            "seed": 0}  # fmt: skip
"""options of one value, with the value that goes without saying"""
_SWEPT = {"batch_size": 8, "seq_len": 256}


def commands(records: Sequence[Record], steps: int | None, rounds: int | None = None) -> list[str]:
    """A `memprof compare` for each group of records that differ in method, batch and length alone; often just one.

    A model that was a config.json is named by its file, and so is a text: a record does not keep where they lay.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(shlex.join(_shared(record.scenario, steps, rounds)), []).append(record)
    whole = [command for shared, group in groups.items() for command in _of_group(shared, group)]
    return _merged(whole)


def _of_group(shared: str, group: Sequence[Record]) -> list[str]:
    """One command where every method has every batch and length, else one for each of these."""
    if len({record.id for record in group}) == _cells(group):
        return [f"{shared}{_varied(group)}"]
    parts: dict[tuple[str, ...], list[Record]] = {}
    for record in group:
        parts.setdefault(tuple(_swept(record, key) for key in _SWEPT), []).append(record)
    return [f"{shared}{_varied(part)}" for part in parts.values()]


def _merged(whole: Sequence[str]) -> list[str]:
    """Commands that differ in the model alone, as one that names them all."""
    groups: dict[str, list[str]] = {}
    for command in whole:
        model, _, rest = command.removeprefix("memprof compare --model ").partition(" ")
        groups.setdefault(rest, []).append(model)
    return [f"memprof compare {' '.join(f'--model {model}' for model in models)} {rest}".strip()
            for rest, models in groups.items()]  # fmt: skip


def _shared(scenario: Mapping[str, Any], steps: int | None, rounds: int | None) -> list[str]:
    words = ["memprof", "compare", "--model", str(scenario["model"])]
    for key, default in _OPTIONS.items():
        value = scenario.get(key, default)
        if value != default:
            words += [_flag(key), str(value)]
    if scenario.get("checkpointing"):
        words.append("--checkpointing")
    return [*words, *_text(scenario), *_overrides(scenario), *_place(scenario, steps, rounds)]


def _text(scenario: Mapping[str, Any]) -> list[str]:
    text = scenario.get("text")
    return ["--text", str(text["name"])] if isinstance(text, Mapping) and text.get("name") else []


def _overrides(scenario: Mapping[str, Any]) -> list[str]:
    """What differs from the named shape as the counting takes it."""
    shape = SHAPES.get(str(scenario["model"]))
    counting = COUNTINGS.get(str(scenario.get("counting")))
    shape = counting.applied_to(shape) if shape and counting else shape
    known = {"vocab_size": shape.vocab_size, "num_layers": shape.num_hidden_layers} if shape else {}
    changed = [key for key, value in known.items() if scenario.get(key) not in (None, value)]
    return [word for key in changed for word in (_flag(key), str(scenario[key]))]


def _place(scenario: Mapping[str, Any], steps: int | None, rounds: int | None) -> list[str]:
    """Where it is measured, or for which kernels it is not."""
    if scenario.get("device"):
        given = {"--device": scenario["device"], "--rounds": rounds, "--steps": steps}
        return ["--measure", *(word for flag, said in given.items() if said is not None for word in (flag, str(said)))]
    family = str(scenario.get("kernels") or "cuda").partition("-")[0]
    return ["--no-measure", *([] if family == "cuda" else ["--kernels", family])]


def _cells(group: Sequence[Record]) -> int:
    cells = len({_method(record.scenario) for record in group})
    for key in _SWEPT:
        cells *= len({_swept(record, key) for record in group})
    return cells


def _varied(group: Sequence[Record]) -> str:
    """Methods, and the values of what is swept."""
    words = [
        word for name in dict.fromkeys(_method(record.scenario) for record in group) for word in ("--method", name)
    ]
    for key, default in _SWEPT.items():
        values = list(dict.fromkeys(_swept(record, key) for record in group))
        if values != [str(default)]:
            words += [_flag(key), ",".join(values)]
    return f" {shlex.join(words)}"


def _swept(record: Record, key: str) -> str:
    return str(record.scenario.get(key, _SWEPT[key]))


def _method(scenario: Mapping[str, Any]) -> str:
    """As the command line names a method: with what is not at its default, and its rank."""
    return spell_method(str(scenario["method"]), scenario.get("hyperparameters") or {}, scenario.get("given") or ())


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"
