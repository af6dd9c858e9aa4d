"""What a step trains on: the same tokens for every method, and of a text its own bytes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memprof.api import plan
from memprof.batches import Batches, batches
from memprof.device import CpuDevice, get_device
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.measure.watch import watch_memory
from memprof.scenario import Scenario
from memprof.step import prepare, request_refresh, train_step
from memprof.text import _content
from memprof.timeline import OPTIMIZER_STATE, PARAM
from memprof.trace import trace
from tests.cells import scenario_of

CPU = torch.device("cpu")
CONTENT = bytes(range(256)) * 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "text"
    found.write_bytes(CONTENT)
    _content.cache_clear()
    return found


def on_text(file: Path, method: str = "adamw", **fields: Any) -> Scenario:
    return scenario_of(method, **{"text": file, "vocab_size": 256, "batch_size": 3, **fields})


def first(scenario: Scenario, count: int) -> list[tuple[Tensor, Tensor]]:
    return list(islice(batches(scenario, CPU), count))


def alike(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(ids, same) and torch.equal(labels, too) for (ids, labels), (same, too) in pairs)


def test_tokens_are_windows_of_the_file_and_labels_are_one_further(file: Path) -> None:
    starts = set()
    for ids, labels in first(on_text(file), 20):
        assert ids.shape == labels.shape == (3, 8) and ids.dtype == labels.dtype == torch.int64
        for row, further in zip(ids.tolist(), labels.tolist(), strict=True):
            window = bytes([*row, further[-1]])
            assert window in CONTENT and bytes(further) == window[1:]
            starts.add(row[0])
    assert len(starts) > 30, "all over the text"


@pytest.mark.parametrize(("vocab", "distinct"), [(40, 40), (256, 256), (32_000, 256)])
def test_synthetic_tokens_come_often_whatever_the_vocabulary(vocab: int, distinct: int) -> None:
    """Of a vocabulary of 32,000 a few steps would see hardly a token twice, and nobody would learn."""
    (scenario,) = plan(["9m"], ["adamw"], vocab_size=vocab, batch_size=64, seq_len=64)
    seen = first(scenario, 2)
    assert set(torch.cat([ids.flatten() for ids, _ in seen]).tolist()) == set(range(distinct))
    for ids, labels in seen:
        assert torch.equal(labels[:, :-1], ids[:, 1:])


@pytest.mark.parametrize("spare", [0, 1])
def test_the_last_window_is_drawn_and_nothing_behind_it(file: Path, spare: int) -> None:
    """A text of T + 1 bytes has one window, one of T + 2 has two."""
    file.write_bytes(CONTENT[: 9 + spare])
    ids, labels = first(on_text(file, batch_size=40), 1)[0]
    assert set(ids[:, 0].tolist()) == set(range(1 + spare))
    assert labels.max() == 8 + spare


def test_the_seed_draws_the_offsets(file: Path) -> None:
    one = first(on_text(file), 3)
    assert alike(one, first(on_text(file), 3))
    assert not alike(one, first(on_text(file, seed=1), 3))


@pytest.mark.parametrize("real", [False, True], ids=["synthetic", "text"])
def test_two_storages_of_int64_are_all_that_stays(file: Path, real: bool) -> None:
    """As the formula counts them: 8 bytes a token, twice."""
    ((ids, labels),) = first(on_text(file, text=file if real else None), 1)
    assert [part.untyped_storage().nbytes() for part in (ids, labels)] == [8 * 3 * 8] * 2
    assert ids.untyped_storage().data_ptr() != labels.untyped_storage().data_ptr()
    assert ids.is_contiguous() and labels.is_contiguous()


def trained_on(scenario: Scenario) -> tuple[list[tuple[Tensor, Tensor]], bool]:
    """The tokens of three steps, and whether torch's own generator moved."""
    model, optimizer = prepare(scenario, CPU)
    before, seen = torch.get_rng_state(), []

    def noted() -> Batches:
        for batch in batches(scenario, CPU):
            seen.append(batch)
            yield batch

    stream = noted()
    for _ in range(3):
        if scenario.method.is_periodic:
            request_refresh(optimizer)
        train_step(model, optimizer, scenario, batches=stream)
    return seen, not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("real", [False, True], ids=["synthetic", "text"])
@pytest.mark.parametrize("method", ["flora", "galore", "relora"])
def test_a_method_that_draws_random_numbers_sees_the_tokens_of_adamw(file: Path, method: str, real: bool) -> None:
    """Each step does the periodic work: a projection drawn anew, an adapter begun again. ReLoRA's draws go through
    torch's own generator, which synthetic tokens came from once."""
    text = file if real else None
    tokens, drew = trained_on(on_text(file, method, text=text))
    assert alike(tokens, trained_on(on_text(file, text=text))[0])
    assert drew == (method == "relora")


@pytest.mark.parametrize("method", ["adamw", "galore", "lora"])
def test_a_text_takes_the_memory_that_formula_and_trace_say(file: Path, method: str) -> None:
    """They know nothing of tokens but their number. Oracle: the CPU allocator's own events."""
    scenario = on_text(file, method, accumulation=1)
    traced, predicted = trace(scenario), formula(scenario)
    seen = watch_memory(scenario, CpuDevice()).ordinary
    assert seen.activation == traced.activation == predicted.activation
    assert seen.peak == traced.peak and seen.replayed.by_category == traced.peak_by_category
    assert seen.after[PARAM] + seen.after[OPTIMIZER_STATE] == sum(seen.after.values()) == traced.steady


def test_the_memory_pass_trains_on_the_text(file: Path) -> None:
    scenario = on_text(file)
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(MemprofError, match="text text has changed"):
        watch_memory(scenario, CpuDevice())


def test_a_gpu_copies_from_pinned_memory_and_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what torch is asked for, no GPU being here: of the host pinned memory, of the copy not to block."""
    asked: list[tuple[Any, dict[str, Any]]] = []
    empty = torch.empty

    def pinned(shape: torch.Size, *, dtype: torch.dtype, pin_memory: bool) -> Tensor:
        asked.append((shape, {"dtype": dtype, "pin_memory": pin_memory}))
        return empty(shape, dtype=dtype)

    def copied(self: Tensor, device: torch.device, **options: Any) -> Tensor:
        asked.append((device, options))
        return self

    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(Tensor, "to", copied)
    gpu = torch.device("cuda")
    next(batches(on_text(file), gpu))
    assert asked == [((3, 8), {"dtype": torch.int64, "pin_memory": True}), (gpu, {"non_blocking": True})] * 2


@pytest.mark.gpu
def test_a_gpu_gets_the_same_tokens_and_allocates_two_storages(file: Path) -> None:
    scenario = on_text(file)
    device = get_device("cuda").torch_device
    stream, other = batches(scenario, device), batches(scenario, CPU)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    ids, labels = next(stream)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] - before == 2
    for one, expected in zip((ids, labels), next(other), strict=True):
        assert torch.equal(one.cpu(), expected)
