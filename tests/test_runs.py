"""Several stored runs as one, from runs made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memprof.api import plan
from memprof.record import Measured, Record
from memprof.run_file import Maker
from memprof.runner import unfinished
from memprof.runs import read_runs
from memprof.store import RunStore

TINY: dict[str, Any] = {"batch_size": 1, "seq_len": 8}


def cells(*methods: str) -> list[Record]:
    return [unfinished(scenario, "interrupted", "") for scenario in plan(["9m"], methods, **TINY)]


def measured(record: Record, peak: int) -> Record:
    at_peak: dict[str, Any] = {"param": peak, "grad": 0, "optimizer_state": 0, "activation": 0, "extra": 0}
    seen = Measured(**at_peak, peak=peak, peak_phase="forward", peak_by_category=at_peak, steady=peak)
    return dataclasses.replace(record, status="ok", measured=seen)


def stored(folder: Path, records: Sequence[Record], **environment: Any) -> Path:
    store = RunStore.create(folder, maker=Maker(environment))
    for record in records:
        store.append(record)
    store.close()
    return folder


def test_one_run_is_itself(tmp_path: Path) -> None:
    records = cells("adamw", "lora")
    found = read_runs([stored(tmp_path / "a", records, torch="2.11")])
    assert found.records == records and found.environment == {"torch": "2.11"}
    assert found.commands == [
        "memprof compare --model 9m --no-measure --method adamw --method lora:rank=32 --batch-size 1 --seq-len 8"
    ]


def test_of_a_cell_that_several_have_the_last_measurement_counts(tmp_path: Path) -> None:
    adamw, lora, sgd = cells("adamw", "lora", "sgd")
    one = stored(tmp_path / "one", [measured(adamw, 1), lora])
    two = stored(tmp_path / "two", [measured(adamw, 2), measured(lora, 3), sgd])
    three = stored(tmp_path / "three", [lora])
    found = read_runs([one, two, three])
    assert found.records == [measured(adamw, 2), measured(lora, 3), sgd]


def test_facts_in_which_they_differ_are_all_said(tmp_path: Path) -> None:
    one = stored(tmp_path / "one", cells("adamw"), torch="2.11", gpu="H200")
    two = stored(tmp_path / "two", cells("lora"), torch="2.13", gpu="H200")
    assert read_runs([one, two]).environment == {"torch": "2.11 / 2.13", "gpu": "H200"}
    assert len(read_runs([one, two]).commands) == 2
