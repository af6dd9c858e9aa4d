"""What holds for every method: the formula is the trace, and a step costs what the last one did.

A method enters by being in the catalogue, and what it needs differently is data: here, or on its class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from memprof.api import plan
from memprof.catalogue import CORE, METHODS, get_method
from memprof.formula import formula
from memprof.ledger import Ledger, state_tensors
from memprof.llama import build_model
from memprof.method import named_weights
from memprof.record import Formula, Trace
from memprof.scenario import Scenario
from memprof.shapes import LlamaShape, get_shape
from memprof.step import prepare, request_refresh, train_step
from memprof.timeline import CATEGORIES
from memprof.trace import booked_step, trace
from tests.battery import CPU, EXACT, NAMES, every_method

MODELS = ["9m", "60m", "350m", "1b", "7b", "llama3-8b", "llama3.2-1b"]
SOME_MODELS = ["9m", "350m"]
"""for the methods that `compare` does not show unless asked; `make slow` runs the other models too"""
SOME_GRID = ("one-token", "peak-inside-a-layer", "peak-at-a-weight's-gradient", "accumulating-at-a-weight's-gradient",
             "accumulating-3-odd", "tied-accumulating", "grouped-peak-inside-a-layer",
             "checkpointed-pieces-inside-a-layer", "clipped-one-token")  # fmt: skip
"""the same, for odd scenarios; a method's variants are tried on the first three"""
SMALL: dict[str, Any] = {"vocab_size": 64, "num_layers": 1}
GRID: dict[str, dict[str, Any]] = {
    "one-short-sequence": {"batch_size": 1, "seq_len": 64},
    "one-long-sequence": {"batch_size": 1, "seq_len": 2048},
    "odd-batch": {"batch_size": 3, "seq_len": 50},
    "one-token": {"batch_size": 1, "seq_len": 1, **SMALL},
    "peak-inside-a-layer": {"vocab_size": 64},
    "peak-inside-the-only-layer": SMALL,
    "peak-at-a-weight's-gradient": {"batch_size": 1, "seq_len": 8, **SMALL},
    "accumulating-at-a-weight's-gradient": {"batch_size": 1, "seq_len": 8, "accumulation": 2, **SMALL},
    "accumulating-2": {"accumulation": 2},
    "accumulating-3-odd": {"accumulation": 3, "batch_size": 3, "seq_len": 50},
    "accumulating-inside-a-layer": {"accumulation": 2, "vocab_size": 64},
    "tied": {"model": "llama3.2-1b", "num_layers": 2},
    "tied-short": {"model": "llama3.2-1b", "num_layers": 2, "batch_size": 1, "seq_len": 64},
    "tied-accumulating": {"model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "tied-peak-inside-a-layer": {"model": "llama3.2-1b", "num_layers": 2, "vocab_size": 64, "batch_size": 3,
                                 "seq_len": 50},
    "grouped-peak-inside-a-layer": {"model": "llama3-8b", "num_layers": 2, "vocab_size": 64, "batch_size": 3,
                                    "seq_len": 50},
    "wide-vocabulary": {"vocab_size": 200_000, "num_layers": 2},
    "clipped-one-token": {"clip_grad_norm": 1.0, "batch_size": 1, "seq_len": 1, "vocab_size": 64},
    "clipped-tied-accumulating": {"clip_grad_norm": 1.0, "model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "pieces": {"loss_chunks": 4},
    "pieces-of-one-token": {"loss_chunks": 8, "batch_size": 1, "seq_len": 8, **SMALL},
    "pieces-accumulating-odd": {"loss_chunks": 7, "accumulation": 3, "batch_size": 3, "seq_len": 50},
    "pieces-tied": {"loss_chunks": 4, "model": "llama3.2-1b", "num_layers": 2},
    "pieces-tied-accumulating": {"loss_chunks": 5, "model": "llama3.2-1b", "num_layers": 2, "accumulation": 2},
    "checkpointed-pieces": {"checkpointing": True, "loss_chunks": 4},
    "checkpointed-pieces-inside-a-layer": {"checkpointing": True, "loss_chunks": 4, "vocab_size": 64, "batch_size": 3,
                                           "seq_len": 50},
    "checkpointed-pieces-tied-accumulating": {"checkpointing": True, "loss_chunks": 8, "model": "llama3.2-1b",
                                              "num_layers": 2, "accumulation": 2},
    "checkpointed": {"checkpointing": True, "vocab_size": 64},
    "checkpointed-one-token": {"checkpointing": True, "batch_size": 1, "seq_len": 1, **SMALL},
    "checkpointed-at-a-weight's-gradient": {"checkpointing": True, "batch_size": 1, "seq_len": 8, **SMALL},
    "checkpointed-accumulating-odd": {"checkpointing": True, "accumulation": 3, "batch_size": 3, "seq_len": 50,
                                      "vocab_size": 64},
    "checkpointed-grouped": {"checkpointing": True, "model": "llama3-8b", "num_layers": 2, "vocab_size": 64,
                             "batch_size": 3, "seq_len": 50},
    "checkpointed-tied-accumulating": {"checkpointing": True, "model": "llama3.2-1b", "num_layers": 2,
                                       "accumulation": 2},
}  # fmt: skip


def scenario(name: str, model: str = "9m", **fields: Any) -> Scenario:
    return plan([model], [name], **fields)[0]


def assert_formula_is_trace(case: Scenario, seen: Trace | None = None) -> None:
    """Every key to the byte, and who owned the bytes of the peak."""
    predicted, seen = formula(case), seen or trace(case)
    drift = {key: (getattr(predicted, key), getattr(seen, key)) for key in EXACT}
    wrong = {key: pair for key, pair in drift.items() if pair[0] != pair[1]}
    assert not wrong, f"{case.method}: formula, trace: {wrong}; worst instant by formula: {predicted.peak_at}"
    assert predicted.peak == seen.peak, told(case, "peak", predicted.peak, seen.peak, predicted.peak_at)
    assert case.method.is_periodic == (predicted.refresh_peak is not None) == (seen.refresh_peak is not None)
    assert predicted.refresh_peak == seen.refresh_peak, told(
        case, "refresh_peak", predicted.refresh_peak or 0, seen.refresh_peak or 0, predicted.peak_at
    )
    assert_categories(predicted, seen)
    for key in CATEGORIES:
        pair = predicted.peak_by_category[key], seen.peak_by_category[key]
        assert pair[0] == pair[1], f"{case.method}: {key} at the peak: formula, trace: {pair}"


def told(case: Scenario, key: str, predicted: int, seen: int, instant: str) -> str:
    short = seen - predicted
    return (
        f"{case.method}: {key} by formula is {short} bytes ({short / seen:.1e}) below the trace's {seen}; "
        f"worst instant by formula: {instant}"
    )


def assert_categories(predicted: Formula, seen: Trace) -> None:
    for witness in (predicted, seen):
        assert tuple(witness.peak_by_category) == CATEGORIES
        assert sum(witness.peak_by_category.values()) == witness.peak, witness
        assert witness.peak_by_category["extra"] == witness.extra
        assert min(witness.peak_by_category.values()) >= 0, witness


def slow_unless(name: str, always: bool) -> Any:
    """The core is tried on everything each time, the rest of the catalogue on what it is `always` tried on."""
    return () if name in CORE or always else pytest.mark.slow


def models_of(name: str) -> Iterator[Any]:
    some = SOME_MODELS if name in METHODS else SOME_MODELS[:1]
    for model in MODELS:
        yield pytest.param(model, name, marks=slow_unless(name, model in some), id=f"{model}-{name}")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("model", "name"), [case for name in NAMES for case in models_of(name)])
def test_formula_is_the_trace_on_every_model(model: str, dtype: str, name: str) -> None:
    case = scenario(name, model, dtype=dtype)
    seen = trace(case)
    assert_formula_is_trace(case, seen)
    assert sum(seen.extra_by_maker.values()) == seen.extra


def accumulates(name: str) -> bool:
    """Whether gradients are there between backward and step, to be added to and to be clipped."""
    return get_method(name).updates == "step"


odd_scenarios = pytest.mark.parametrize(
    ("fields", "name"),
    [
        pytest.param(
            fields,
            name,
            marks=slow_unless(name, grid in SOME_GRID[: None if name in METHODS else 3]),
            id=f"{grid}-{name}",
        )
        for grid, fields in GRID.items()
        for name in NAMES
        if not {"accumulation", "clip_grad_norm"} & fields.keys() or accumulates(name)
    ],
)


@odd_scenarios
def test_formula_is_the_trace_on_odd_scenarios(fields: dict[str, Any], name: str) -> None:
    for kernels, dtype in (("cpu", "bf16"), ("cuda", "fp32")):
        assert_formula_is_trace(scenario(name, kernels=kernels, dtype=dtype, **fields))


NARROW: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "loqt": ("cuda", "fp32", {"hidden_size": 128, "num_key_value_heads": 1, "head_dim": 64, "intermediate_size": 16},
             {"batch_size": 2, "seq_len": 16}),
    "loqt:iterations=0": ("cuda", "fp32", {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1,
                                           "head_dim": 8, "intermediate_size": 8}, {"batch_size": 4, "seq_len": 64}),
    "mora": ("cuda", "bf16", {"hidden_size": 256, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 256},
             {"batch_size": 8, "seq_len": 128}),
    "mora:grouping=sharing": ("cuda", "fp32", {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1,
                                               "head_dim": 16, "intermediate_size": 16},
                              {"batch_size": 4, "seq_len": 64}),
    "q-galore:inner=adamw,proj_bits=8,group_size=100": (
        "cuda", "bf16", {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
                         "intermediate_size": 32}, {"batch_size": 4, "seq_len": 64, "accumulation": 2}),
}  # fmt: skip
"""where running a layer again takes more than its backward: an MLP as narrow as attention, or narrower"""


@pytest.mark.parametrize("name", NARROW)
def test_formula_is_the_trace_where_a_checkpointed_layers_forward_is_the_worst(name: str) -> None:
    kernels, dtype, sizes, fields = NARROW[name]
    shape = dataclasses.replace(get_shape("9m", vocab_size=16, num_layers=2), **sizes)
    plain = scenario("adamw", kernels=kernels, dtype=dtype, checkpointing=True, **fields)
    method = get_method(name).bind(shape.weights(plain.itemsize))
    assert_formula_is_trace(dataclasses.replace(plain, shape=shape, method=method))


@pytest.mark.parametrize(
    ("kernels", "name"),
    [pytest.param(k, name, marks=slow_unless(name, k == "cuda")) for k in ("cpu", "cuda") for name in NAMES],
)
def test_fp16_costs_what_bf16_does(kernels: str, name: str) -> None:
    half = scenario(name, dtype="fp16", kernels=kernels)
    assert_formula_is_trace(half)
    assert formula(half) == formula(scenario(name, dtype="bf16", kernels=kernels))


@every_method
@pytest.mark.parametrize("rank", [1, 7, 128])
def test_formula_is_the_trace_at_any_rank(rank: int, name: str) -> None:
    for dtype in ("bf16", "fp32"):
        assert_formula_is_trace(scenario(name, rank=rank, dtype=dtype, **SMALL))


@pytest.mark.slow
@odd_scenarios
def test_formula_is_the_trace_on_odd_scenarios_with_the_other_kernels(fields: dict[str, Any], name: str) -> None:
    for kernels, dtype in (("cpu", "fp32"), ("cuda", "bf16")):
        assert_formula_is_trace(scenario(name, kernels=kernels, dtype=dtype, **fields))


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("model", ["60m", "130m", "250m", "1b", "llama3.2-3b"])
def test_formula_is_the_trace_with_cpu_kernels(model: str, dtype: str, name: str) -> None:
    for accumulation in (1, 2) if accumulates(name) else (1,):
        assert_formula_is_trace(scenario(name, model, dtype=dtype, kernels="cpu", accumulation=accumulation))


@every_method
def test_a_warm_step_repeats_itself(name: str) -> None:
    """The second booked step costs what the first did: nothing grows from step to step."""
    case = scenario(name, **SMALL)
    assert trace(case) == trace(case)
    model, optimizer = prepare(case, torch.device("meta"))
    train_step(model, optimizer, case)
    first, second, third = (booked_step(Ledger(model, optimizer), case) for _ in range(3))
    assert first.peak == second.peak == third.peak
    assert first.timeline.totals() == second.timeline.totals() == third.timeline.totals()


@pytest.mark.parametrize(
    ("kernels", "dtype", "name"),
    [
        pytest.param(kernels, dtype, name, marks=slow_unless(name, dtype == "bf16"), id=f"{kernels}-{dtype}-{name}")
        for kernels in ("cuda", "cpu")
        for dtype in ("bf16", "fp16", "fp32")
        for name in NAMES
    ],
)
def test_runs_on_meta_with_its_periodic_work(kernels: str, dtype: str, name: str) -> None:
    case = scenario(name, dtype=dtype, kernels=kernels, **SMALL)
    model, optimizer = prepare(case, torch.device("meta"))
    for _ in range(2):
        assert train_step(model, optimizer, case).is_meta
    if case.method.is_periodic:
        request_refresh(optimizer)
        train_step(model, optimizer, case)
    assert all(t.is_meta for t in (*model.parameters(), *state_tensors(optimizer)))


@every_method
def test_schedule_counts_from_zero_and_grows_with_the_horizon(name: str) -> None:
    method = get_method(name)
    steps = list(method.refresh_steps(1000))
    assert steps == sorted(set(steps)) and all(0 <= step < 1000 for step in steps)
    assert list(method.refresh_steps(500)) == [step for step in steps if step < 500]
    assert list(method.refresh_steps(0)) == []


@every_method
def test_states_on_a_device_are_those_of_the_formula(name: str) -> None:
    """Real tensors, no ledger: parameters and states are counted by their storages."""
    for dtype in ("bf16", "fp32"):
        case = scenario(name, dtype=dtype, kernels="cpu", batch_size=1, seq_len=8, **SMALL)
        model, optimizer = prepare(case, CPU)
        train_step(model, optimizer, case)
        stored = (*model.parameters(), *model.buffers())
        owned = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in stored}
        kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(optimizer)}
        states = sum(nbytes for address, nbytes in kept.items() if address not in owned)
        predicted = formula(case)
        assert (sum(owned.values()), states) == (predicted.param, predicted.optimizer_state), dtype


def test_shape_and_model_name_the_same_weights() -> None:
    """What a formula sees, made from numbers, is what `prepare` sees, made from a model."""
    for tied in (False, True):
        model = build_model("9m", device="meta", num_key_value_heads=2, tie_word_embeddings=tied, num_layers=2)
        shape: LlamaShape = model.config
        assert [weight for weight, _ in named_weights(model)] == shape.weights(4)
