"""The public verbs: what is planned, where it is measured, and that the same question has the same answer."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import memprof
import memprof.api
from memprof.api import choose_device, choose_kernels, environment, plan, resolve_method, resolve_model
from memprof.catalogue import CORE, METHODS
from memprof.errors import MemprofError, UnsupportedError
from memprof.methods.galore import GaLore
from memprof.record import document
from memprof.shapes import get_shape

TINY: dict[str, Any] = {"num_layers": 1, "vocab_size": 64, "batch_size": 1, "seq_len": 8}


def test_profile_is_one_cell_of_compare() -> None:
    one = memprof.profile("9m", "galore:rank=8", **TINY)
    (same,) = memprof.compare(["9m"], ["galore:rank=8"], **TINY)
    assert one == same and one.status == "ok"
    assert one.formula is not None and one.trace is not None and one.measured is None


def test_records_keep_the_order_of_models_and_methods() -> None:
    records = memprof.compare(["20m", "9m"], ["lora", "adamw"], **TINY)
    assert [(record.model, record.method) for record in records] == [
        ("20m", "lora"),
        ("20m", "adamw"),
        ("9m", "lora"),
        ("9m", "adamw"),
    ]
    frame = records.to_frame()
    assert len(frame) == 4


def test_the_same_question_has_the_same_bytes() -> None:
    first, second = (document(memprof.compare(["9m"], **TINY), environment()) for _ in range(2))
    assert first == second
    assert [record["scenario"]["method"] for record in json.loads(first)["records"]] == list(CORE)


def test_rank_goes_to_methods_that_have_one_and_were_given_none() -> None:
    shape = get_shape("9m")
    assert resolve_method("galore", shape, 2, 16).hyperparameters()["rank"] == 16
    assert resolve_method("galore:rank=4", shape, 2, 16).hyperparameters()["rank"] == 4
    assert resolve_method(GaLore(rank=4), shape, 2, 16).hyperparameters()["rank"] == 4
    assert resolve_method("galore", shape, 2).hyperparameters()["rank"] == 128 // 4
    assert "rank" not in resolve_method("adamw", shape, 2, 16).hyperparameters()


def test_a_text_is_part_of_what_is_planned(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"0123456789")
    chosen = {**TINY, "vocab_size": 256, "device": "cpu"}
    ((plain,), (real,), (same,)) = (plan(["9m"], ["adamw"], text=text, **chosen) for text in (None, file, str(file)))
    assert plain.text is None and real.text is not None and real.text.name == "a.txt"
    assert real.id == same.id != plain.id
    file.write_bytes(b"012345678X")
    (other,) = plan(["9m"], ["adamw"], text=file, **chosen)
    assert other.id not in (real.id, plain.id), "another content is another scenario, under whatever name"


def test_a_text_without_a_measurement_has_no_effect_and_is_refused(tmp_path: Path) -> None:
    for verb in (memprof.compare, memprof.profile, memprof.api.explain):
        with pytest.raises(MemprofError, match="^--text has no effect without a measurement.* or leave it out$"):
            verb("9m", text=tmp_path / "not even looked for", **TINY)


def test_a_plan_sweeps_ranks_batches_and_lengths_and_has_each_cell_once() -> None:
    """2 ranks x 2 batches x 3 lengths for GaLore; a rank of its own, and no rank, leave 2 x 3."""
    cells = plan(["9m"], ["galore", "lora:rank=4", "adamw"], rank=[8, 16], batch_size=(1, 2), seq_len=[8, 16, 32])
    assert Counter(cell.method.name for cell in cells) == {"galore": 12, "lora": 6, "adamw": 6}
    assert len({cell.id for cell in cells}) == len(cells)


RANKED = [name for name, kind in METHODS.items() if kind().hyperparameters().get("rank", 0) is None]
"""methods whose rank is the model's or the command line's; apollo-mini has its own"""


@pytest.mark.parametrize("method", RANKED)
def test_a_rank_too_large_names_the_weight(method: str) -> None:
    with pytest.raises(
        MemprofError, match=r"rank 129 is larger than model\.layers\.0\..*\(128 x 128\); use at most 128"
    ):
        plan(["9m"], [method], rank=129)
    (scenario,) = plan(["9m"], [method], rank=128)
    assert scenario.method.hyperparameters()["rank"] == 128


def test_a_config_is_known_by_its_file_name(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    fields = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    file.write_text(json.dumps({"model_type": "llama", "vocab_size": 100, **fields}))
    name, shape = resolve_model(str(file), num_layers=3)
    assert (name, shape.hidden_size, shape.num_hidden_layers) == ("config.json", 64, 3)
    record = memprof.profile(str(file), seq_len=8)
    assert str(tmp_path) not in json.dumps(record.to_dict()), "a record names no folder of its user"


@pytest.mark.parametrize(
    ("kernels", "device", "dtype", "chosen"),
    [
        (None, None, "bf16", "cuda-flash"),
        (None, None, "fp32", "cuda-efficient"),
        ("cpu", None, "bf16", "cpu"),
        (None, "cpu", "bf16", "cpu"),
        ("cpu", "cpu", "fp32", "cpu"),
        ("cuda", "cuda", "fp16", "cuda-flash"),
    ],
)
def test_kernels_follow_the_device_and_the_dtype(
    kernels: str | None, device: str | None, dtype: str, chosen: str
) -> None:
    assert choose_kernels(kernels, device, dtype) == chosen


def test_kernels_of_another_device_cannot_be_measured() -> None:
    with pytest.raises(MemprofError, match="--kernels cuda cannot be measured with --device cpu"):
        choose_kernels("cuda", "cpu", "fp32")


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize(
    ("measure", "device", "without", "with_cuda"),
    [
        (None, None, None, "cuda"),
        (False, None, None, None),
        (False, "cuda", None, None),
        (True, None, UnsupportedError, "cuda"),
        (True, "cpu", "cpu", "cpu"),
        (None, "cpu", "cpu", "cpu"),
        (True, "cuda", UnsupportedError, "cuda"),
    ],
)
def test_where_to_measure(
    monkeypatch: pytest.MonkeyPatch,
    measure: bool | None,
    device: str | None,
    without: Any,
    with_cuda: str | None,
    cuda: bool,
) -> None:
    monkeypatch.setattr(memprof.api, "has_cuda", lambda: cuda)
    if not cuda and without is UnsupportedError:
        with pytest.raises(UnsupportedError):
            choose_device(measure, device)
    else:
        assert choose_device(measure, device) == (with_cuda if cuda else without)


def test_the_same_cell_twice_is_planned_once() -> None:
    assert len(plan(["9m", "9m"], ["adamw", "adamw:lr=0.001", "lora"])) == 2


def test_a_bare_name_is_one_and_an_unknown_field_is_named() -> None:
    assert len(memprof.compare("9m", "adamw", **TINY)) == 1
    with pytest.raises(MemprofError, match="unknown field 'methd'; choose from rank, dtype"):
        memprof.profile("9m", methd="adamw")


def test_an_unknown_device_names_the_known() -> None:
    with pytest.raises(MemprofError, match="unknown device 'tpu'; choose from cuda, cpu"):
        choose_device(False, "tpu")


def test_the_environment_names_versions_and_nobody() -> None:
    facts = environment("cpu")
    assert facts["torch"] and facts["python"] and facts["memprof"]
    text = json.dumps(facts)
    private = {socket.gethostname(), str(Path.home()), str(Path.cwd()), os.environ.get("USER", "")}
    assert not any(secret in text for secret in private if len(secret) > 4)


@pytest.mark.parametrize(("count", "why"), [({"rounds": -1}, "rounds=-1"), ({"steps": 0}, "steps=0")])
def test_a_number_of_rounds_or_steps_that_cannot_be_run_is_refused_at_once(count: dict[str, int], why: str) -> None:
    """It ended in a division by zero inside the measurement, and passed unseen where nothing was measured."""
    with pytest.raises(MemprofError, match=f"{why} is out of range"):
        memprof.profile("9m", "adamw", **count, **TINY)
