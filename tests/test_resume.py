"""What a run that is continued may ask for: the same cells, made by the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from memprof.api import plan
from memprof.errors import MemprofError
from memprof.record import Measured, Record
from memprof.run_file import Maker, read_maker
from memprof.runner import unfinished
from memprof.store import RunStore
from tests.made_records import make, snapshot


def measured(method: str) -> Record:
    record = make(method)
    assert record.formula is not None
    figures = {
        key: value for key, value in dataclasses.asdict(record.formula).items() if key not in ("total", "peak_at")
    }
    return dataclasses.replace(record, measured=Measured(**figures))


FACTS = {"torch": "2.11.0", "device": "cuda", "gpu": "A100"}


@pytest.mark.parametrize(
    ("change", "steps", "said"),
    [
        ({}, 40, r"steps \(10 there, 40 here\)"),
        ({"gpu": "H100"}, 10, r"gpu \(A100 there, H100 here\)"),
        ({"device": "cpu", "gpu": None}, 10, r"device \(cuda there, cpu here\), gpu \(A100 there, not said here\)"),
        ({"torch": "2.12.0"}, 10, r"torch \(2.11.0 there, 2.12.0 here\)"),
        ({"threads": "8"}, 10, r"threads \(not said there, 8 here\)"),
    ],
)
def test_what_was_measured_otherwise_is_not_continued(
    tmp_path: Path, change: dict[str, Any], steps: int, said: str
) -> None:
    store = RunStore.create(tmp_path, maker=Maker(FACTS, steps=10, rounds=6))
    store.append(measured("adamw"))
    store.close()
    before = snapshot(tmp_path)
    with pytest.raises(MemprofError, match=f"was made with other facts: {said}; .*--force") as error:
        RunStore.create(tmp_path, resume=True, maker=Maker(FACTS | change, steps=steps, rounds=6))
    assert "\n" not in str(error.value) and snapshot(tmp_path) == before
    with pytest.raises(MemprofError, match=r"rounds \(6 there, 5 here\)"):
        RunStore.create(tmp_path, resume=True, maker=Maker(FACTS, steps=10, rounds=5))
    RunStore.create(tmp_path, resume=True, maker=Maker(FACTS, steps=10, rounds=6)).close()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("status", "change", "goes_on"),
    [("oom", {"gpu": "H100"}, False), ("oom", {"torch": "2.12.0"}, True), ("timeout", {"gpu": "H100"}, True)],
)
def test_where_nothing_was_measured_only_the_device_counts_and_only_for_results(
    tmp_path: Path, status: str, change: dict[str, Any], goes_on: bool
) -> None:
    store = RunStore.create(tmp_path, maker=Maker(FACTS, steps=10))
    store.append(dataclasses.replace(make("adamw"), status=status))
    store.close()
    now = Maker(FACTS | change, steps=10)
    if goes_on:
        store = RunStore.create(tmp_path, resume=True, maker=now)
        assert read_maker(store.path) == now
    else:
        with pytest.raises(MemprofError, match="other facts: gpu"):
            RunStore.create(tmp_path, resume=True, maker=now)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["adamw"], "its only cell is not asked for here; the methods differ: adamw before, another after"),
        (["adamw", "lora"], "none of its 2 cells is asked for here"),
    ],
)
def test_a_run_of_other_cells_is_not_continued(tmp_path: Path, methods: list[str], said: str) -> None:
    store = RunStore.create(tmp_path)
    for method in methods:
        store.append(make(method))
    store.close()
    with pytest.raises(MemprofError, match=f"is of other scenarios: {said}") as error:
        RunStore.create(tmp_path, resume=True, planned=[make("another")])
    assert "\n" not in str(error.value)


def ranked(rank: int, batch_size: int = 8) -> Record:
    scenario = {"model": "1b", "method": "lora", "hyperparameters": {"rank": rank}, "batch_size": batch_size}
    return Record(id=f"lora{rank:>4}{batch_size:>4}", scenario=scenario)


@pytest.mark.parametrize(
    ("stored", "planned", "said"),
    [
        ([make("adamw"), ranked(4)], [make("adamw"), ranked(8)], r"lora of 1b differs in rank \(4 before, 8 after\);"),
        ([ranked(4), ranked(8)], [ranked(8), ranked(16)], r"rank \(4 before, 16 after\);"),
        ([ranked(4), ranked(4, 2)], [ranked(4), ranked(4, 3)], r"batch_size \(2 before, 3 after\);"),
        ([make("adamw"), ranked(4), ranked(5)], [make("adamw"), ranked(8), ranked(9)], "and so on for 1 more;"),
        ([ranked(4)], [ranked(8)], r"the nearest two, of lora, differ in rank \(4 before, 8 after\);"),
        ([make("adamw"), ranked(4)], [make("adamw"), ranked(4), ranked(8)], None),
        ([ranked(4), ranked(8)], [ranked(8)], None),
        ([make("adamw"), ranked(4)], [make("adamw"), make("galore")], None),
    ],
    ids=["another rank", "one shared", "another batch", "several", "none shared", "more", "fewer", "another method"],
)
def test_a_run_takes_more_cells_or_fewer_but_none_that_disagree(
    tmp_path: Path, stored: list[Record], planned: list[Record], said: str | None
) -> None:
    store = RunStore.create(tmp_path)
    for record in stored:
        store.append(record)
    store.close()
    if said is None:
        assert RunStore.create(tmp_path, resume=True, planned=planned).load() == stored
        return
    before = snapshot(tmp_path)
    with pytest.raises(MemprofError, match=f"is of other scenarios: .*{said} .*--force") as error:
        RunStore.create(tmp_path, resume=True, planned=planned)
    assert "\n" not in str(error.value) and snapshot(tmp_path) == before


def test_a_run_on_another_text_does_not_go_on(tmp_path: Path) -> None:
    """Nor does one on synthetic tokens: their losses say nothing of each other."""
    file = tmp_path / "a.txt"
    file.write_bytes(b"0123456789")
    run, before = tmp_path / "run", planned_on(file)
    store = RunStore.create(run, planned=[before])
    store.append(dataclasses.replace(before, status="ok"))
    store.close()
    assert len(RunStore.create(run, resume=True, planned=[planned_on(file)]).load()) == 1
    file.write_bytes(b"987654321")
    for other, said in ((file, r'"sha256": "84d89877f0d4".* before, .*"sha256": "8a9bcf1e51e8"'), (None, "not said")):
        with pytest.raises(MemprofError, match=rf"of other scenarios: .* differ in text \(.*{said}.* after\)"):
            RunStore.create(run, resume=True, planned=[planned_on(other)])


def planned_on(text: Path | None) -> Record:
    (scenario,) = plan(["9m"], ["adamw"], device="cpu", seq_len=8, text=text)
    return unfinished(scenario, "interrupted", "not yet")
