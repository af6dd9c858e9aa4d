"""The public verbs: `profile` one scenario, `compare` many; and the planning both share with the command line."""

from __future__ import annotations

import dataclasses
import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from memprof.catalogue import CORE, get_method
from memprof.counting import get_counting
from memprof.device import has_cuda
from memprof.errors import MemprofError, UnsupportedError, shown
from memprof.explain.answer import DEPTH
from memprof.explain.answer import explain as explain_scenario
from memprof.explanation import Explanation
from memprof.field import Field, OnRace
from memprof.headroom import MAX_FRACTION, outgrown
from memprof.kernels import get_kernels
from memprof.method import Method
from memprof.model_config import read_config
from memprof.race.laps import DEFAULT_ROUNDS, DEFAULT_STEPS
from memprof.record import Record
from memprof.runner import DEFAULT_TIMEOUT, describe_device, run_cell, unfinished
from memprof.scenario import DEVICE_CHOICES, ITEMSIZE, KERNEL_CHOICES, Scenario
from memprof.shapes import LlamaShape, get_shape, override
from memprof.step import TORCH_DTYPE
from memprof.text import Text, read_text

DEFAULT_BATCH, DEFAULT_SEQ_LEN = 8, 256

if TYPE_CHECKING:
    import pandas as pd


PLAN_FIELDS = ("rank", "dtype", "kernels", "device", "vocab_size", "num_layers", "batch_size", "seq_len", "text")
SCENARIO_FIELDS = ("accumulation", "checkpointing", "loss_chunks", "clip_grad_norm", "counting", "seed")


class Records(list[Record]):
    """Records of a comparison, in the order of its models and methods."""

    def to_frame(self) -> pd.DataFrame:
        """One row a record, one column a figure."""
        from memprof.report.text import to_frame

        return to_frame(self)


def resolve_model(model: str, **overrides: object) -> tuple[str, LlamaShape]:
    """A model's name and shape: a named shape, or a path to a Hugging Face config.json (known by its file name)."""
    path = Path(model)
    if path.suffix == ".json" or "/" in model:
        return path.name, override(read_config(path), **overrides)
    return model, get_shape(model, **overrides)


def resolve_method(spec: str | Method, shape: LlamaShape, itemsize: int, rank: int | None = None) -> Method:
    """A method bound to a model; `rank` goes to methods that have one and were given none."""
    method = get_method(spec)
    fields = {field.name for field in dataclasses.fields(method)}
    if rank is not None and "rank" in fields and getattr(method, "rank", None) is None:
        method = dataclasses.replace(method, **cast(Any, {"rank": rank}))
    return method.bind(shape.weights(itemsize))


def plan(
    models: Sequence[str],
    methods: Sequence[str | Method],
    *,
    rank: int | Sequence[int] | None = None,
    dtype: str = "bf16",
    kernels: str | None = None,
    device: str | None = None,
    vocab_size: int | None = None,
    num_layers: int | None = None,
    batch_size: int | Sequence[int] = DEFAULT_BATCH,
    seq_len: int | Sequence[int] = DEFAULT_SEQ_LEN,
    text: str | Path | None = None,
    **fields: Any,
) -> list[Scenario]:
    """Every model with every method, rank, batch and sequence length, once, checked before anything runs.

    `device` None: not measured. A method without a rank, or with one of its own, is one cell whatever `rank` sweeps.
    A paper's counting brings its vocabulary unless `vocab_size` is given. `text`: a file on whose bytes measured steps
    train.
    """
    if dtype not in ITEMSIZE:
        raise MemprofError(f"unknown dtype {dtype!r}; choose from {', '.join(ITEMSIZE)}")
    for name in fields:
        if name not in SCENARIO_FIELDS:
            raise MemprofError(
                f"unknown field {shown(name)!r}; choose from {', '.join((*PLAN_FIELDS, *SCENARIO_FIELDS))}"
            )
    chosen = choose_kernels(kernels, device, dtype)
    counting = get_counting(fields.get("counting", "memprof"))
    real = _text(text, device)
    tokens = list(itertools.product(_several(batch_size), _several(seq_len)))
    scenarios: list[Scenario] = []
    for model in models:
        name, shape = resolve_model(model, vocab_size=vocab_size, num_layers=num_layers)
        shape = counting.applied_to(shape) if vocab_size is None else shape
        for spec, each in itertools.product(methods, _several(rank)):
            method = resolve_method(spec, shape, ITEMSIZE[dtype], each)
            given = {"dtype": dtype, "kernels": chosen, "device": device, "text": real, **fields}
            cells = (given | {"batch_size": batch, "seq_len": length} for batch, length in tokens)
            scenarios += [Scenario(model=name, shape=shape, method=method, **cell) for cell in cells]
    return list({scenario.id: scenario for scenario in scenarios}.values())


def _text(path: str | Path | None, device: str | None) -> Text | None:
    if path is None:
        return None
    if device is None:
        raise MemprofError(
            "--text has no effect without a measurement: a formula and a trace read no tokens; add --measure, and "
            "--device cpu where there is no GPU, or leave it out"
        )
    return read_text(path)


def _several(value: Any) -> Sequence[Any]:
    """What may be swept, as the values it takes."""
    return value if isinstance(value, list | tuple) else [value]


def choose_kernels(kernels: str | None, device: str | None, dtype: str) -> str:
    """The kernels' own name. What is measured on a device runs, and is predicted, with that device's kernels."""
    family = kernels or device or "cuda"
    if family not in KERNEL_CHOICES:
        raise MemprofError(f"unknown kernels {family!r}; choose from {', '.join(KERNEL_CHOICES)}")
    if device is not None and family != device:
        raise MemprofError(
            f"--kernels {family} cannot be measured with --device {device}; leave --kernels out or add --no-measure"
        )
    return get_kernels(family, TORCH_DTYPE.get(dtype, torch.float32)).name


def choose_device(measure: bool | None, device: str | None) -> str | None:
    """Where to measure: nowhere by default without CUDA; an error where what was asked for is not there."""
    if device is not None and device not in DEVICE_CHOICES:
        raise MemprofError(f"unknown device {device!r}; choose from {', '.join(DEVICE_CHOICES)}")
    if measure is False or (measure is None and device is None and not has_cuda()):
        return None
    if measure and device is None and not has_cuda():
        raise UnsupportedError("--measure: torch sees no CUDA device here; real steps on this CPU take --device cpu")
    if device == "cuda" and not has_cuda():
        raise UnsupportedError("--device cuda: torch sees no CUDA device here; use --device cpu or --no-measure")
    return device or ("cuda" if has_cuda() else "cpu")


def _check_count(name: str, count: Any, least: int) -> None:
    if not isinstance(count, int) or count < least:
        raise MemprofError(f"{name}={count!r} is out of range; give a whole number of at least {least}")


def run(
    scenarios: Iterable[Scenario],
    *,
    rounds: int = DEFAULT_ROUNDS,
    steps: int = DEFAULT_STEPS,
    timeout: float = DEFAULT_TIMEOUT,
    max_fraction: float = MAX_FRACTION,
    failed: Iterable[Record] = (),
    beside: Sequence[Scenario] = (),
    histories: Path | None = None,
    on_race: OnRace = lambda entrants, rounds: None,
) -> Iterator[Record]:
    """Records one by one, as each finishes. What is larger than a cell that ran out of memory, here or among `failed`,
    is skipped. With `histories`, what was recorded of the allocator is kept in that folder, a file a cell.

    Cells that differ in their method alone race each other first: `steps` timed steps of each, over all `rounds`. Where
    no AdamW is among them, that of `beside` races too, and gets no record.
    """
    known, scenarios = list(failed), list(scenarios)
    _check_count("rounds", rounds, 0)
    _check_count("steps", steps, 1)
    options: dict[str, Any] = {"rounds": rounds, "steps": steps, "timeout": timeout, "max_fraction": max_fraction}
    field = Field(scenarios, on_race=on_race, beside=beside, **options)
    for scenario in scenarios:
        reason = outgrown(scenario, known)
        if reason is not None:
            record = unfinished(scenario, "skipped", reason)
        else:
            ready = field.known(scenario, known)
            record = run_cell(scenario, histories=histories, **ready, **options)
        known.append(record)
        yield record


def compare(
    models: str | Sequence[str] = ("1b",),
    methods: str | Method | Sequence[str | Method] = CORE,
    *,
    measure: bool | None = False,
    device: str | None = None,
    rounds: int = DEFAULT_ROUNDS,
    steps: int = DEFAULT_STEPS,
    timeout: float = DEFAULT_TIMEOUT,
    max_fraction: float = MAX_FRACTION,
    **fields: Any,
) -> Records:
    """Methods side by side on each model. Fields are those of `plan` and `Scenario`."""
    models = [models] if isinstance(models, str) else models
    methods = [methods] if isinstance(methods, str | Method | type) else methods  # a class is refused by name
    scenarios = plan(models, methods, device=choose_device(measure, device), **fields)
    return Records(run(scenarios, rounds=rounds, steps=steps, timeout=timeout, max_fraction=max_fraction))


def profile(model: str = "1b", method: str | Method = "adamw", **fields: Any) -> Record:
    """One scenario: formula and trace, and real steps with `measure=True`."""
    return compare([model], [method], **fields)[0]


def explain(model: str = "1b", method: str | Method = "galore", *, depth: int = DEPTH, **fields: Any) -> Explanation:
    """Why a method's peak is where it is, against AdamW's; by trace. Fields are those of `plan` and `Scenario`."""
    return explain_scenario(plan([model], [method], **fields)[0], depth=depth)


def environment(device: str | None = None) -> Mapping[str, Any]:
    """The versions behind a number. No host, no user, no path."""
    try:
        own = version("memprof")
    except PackageNotFoundError:
        own = "checkout"
    facts: dict[str, Any] = {
        "memprof": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    return facts | (describe_device(device) if device else {})
