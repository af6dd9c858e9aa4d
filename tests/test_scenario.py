"""Scenarios: what identifies them, what they refuse, and that refusals name what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from memprof.catalogue import get_method
from memprof.errors import MemprofError, UnsupportedError
from memprof.scenario import MAX_TOKENS, Scenario
from memprof.shapes import get_shape
from memprof.text import Text


def scenario(**fields: Any) -> Scenario:
    defaults: dict[str, Any] = {"model": "9m", "shape": get_shape("9m"), "method": get_method("galore:rank=8")}
    return Scenario(**{**defaults, **fields})


TEXT = Text(sha256="ba7816bf8f01", nbytes=1000, name="a.txt", path=Path("/home/alice/a.txt"))


def test_id_is_pinned() -> None:
    """Stored runs, budgets and diffs join on it: when it changes, they are orphaned."""
    case = scenario()
    assert case.id == scenario().id == "751ce0215d42"
    assert len(case.id) == 12 and int(case.id, 16) >= 0


CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "ten"},
    "vocabulary": {"shape": get_shape("9m", vocab_size=64)},
    "layers": {"shape": get_shape("9m", num_layers=3)},
    "theta": {"shape": get_shape("9m", rope_theta=5e5)},
    "tie": {"shape": get_shape("9m", tie_word_embeddings=True)},
    "method": {"method": get_method("galore-mini:rank=8")},
    "rank": {"method": get_method("galore:rank=9")},
    "lr": {"method": get_method("galore:rank=8,lr=0.02")},
    "betas": {"method": get_method("galore:rank=8,betas=0.9/0.99")},
    "batch_size": {"batch_size": 9},
    "accumulation": {"accumulation": 2},
    "seq_len": {"seq_len": 255},
    "dtype": {"dtype": "fp16"},
    "kernels": {"kernels": "cpu"},
    "checkpointing": {"checkpointing": True},
    "loss_chunks": {"loss_chunks": 4},
    "clip_grad_norm": {"clip_grad_norm": 1.0},
    "device": {"device": "cpu"},
    "seed": {"seed": 1},
    "text": {"text": TEXT},
    "another text": {"text": dataclasses.replace(TEXT, sha256="0" * 12)},
    "a longer text": {"text": dataclasses.replace(TEXT, nbytes=1001)},
}


def test_id_changes_with_every_field() -> None:
    ids = {name: scenario(**change).id for name, change in CHANGES.items()} | {"": scenario().id}
    assert len(set(ids.values())) == len(ids), ids


def test_what_identifies_a_scenario_is_all_of_it() -> None:
    said = set(scenario(text=TEXT).to_dict())
    assert {field.name for field in dataclasses.fields(Scenario)} <= said


def test_without_a_text_nothing_is_said_of_one() -> None:
    """Ids and documents of runs on synthetic tokens are what they were before there were texts."""
    assert "text" not in scenario().to_dict()


def test_a_text_is_named_and_not_placed() -> None:
    case = scenario(text=TEXT)
    assert case.to_dict()["text"] == {"sha256": "ba7816bf8f01", "nbytes": 1000, "name": "a.txt"}
    assert "alice" not in repr(case)
    assert scenario(text=dataclasses.replace(TEXT, path=Path("/elsewhere/a.txt"))).id == case.id


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": get_shape("9m", vocab_size=255)}, "bytes, 0 to 255, and the vocabulary has 255; .* at least 256"),
        ({"seq_len": 1000}, "text a.txt has 1000 bytes, and seq_len 1000 takes at least 1001"),
    ],
)
def test_what_a_text_cannot_train_is_refused(fields: dict[str, Any], words: str) -> None:
    assert scenario(text=TEXT, shape=get_shape("9m", vocab_size=256), seq_len=999).text == TEXT
    with pytest.raises(MemprofError, match=words) as error:
        scenario(text=TEXT, **fields)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_what_the_step_does_not_do_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="^dtype amp is not built yet") as error:
        scenario(dtype="amp")
    assert error.value.exit_code == 4


@pytest.mark.parametrize("name", ["batch_size", "accumulation", "seq_len", "loss_chunks"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, float("nan"), float("inf"), "8", None])
def test_bad_counts_are_refused(name: str, value: Any) -> None:
    with pytest.raises(MemprofError, match=f"^{name} .*integer of at least 1") as error:
        scenario(**{name: value})
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": MAX_TOKENS}, "at most 67108864 tokens"),
        ({"seq_len": 10**30}, "at most 67108864 tokens"),
        ({"dtype": "int4"}, "unknown dtype 'int4'; choose from bf16, fp16, fp32, amp"),
        ({"kernels": "cuda"}, "unknown kernels 'cuda'; choose from cuda-flash"),
        (
            {"batch_size": 2, "seq_len": 3, "loss_chunks": 7},
            "loss_chunks 7 .* of 6 tokens makes at most as many pieces",
        ),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**63}, "is out of range"),
        ({"seed": 1.0}, "seed 1.0 is out of range"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm 0.0 is out of range"),
        ({"clip_grad_norm": float("nan")}, "clip_grad_norm nan is out of range"),
        ({"shape": get_shape("9m", head_dim=36)}, "multiples of 8, not 36"),
    ],
)
def test_bad_values_name_what_is_allowed(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(MemprofError, match=words) as error:
        scenario(**fields)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"), [({"accumulation": 2}, "cannot accumulate"), ({"clip_grad_norm": 1.0}, "no gradient to clip")]
)
def test_a_method_that_updates_in_backward_leaves_no_gradients(fields: dict[str, Any], words: str) -> None:
    inside = get_method("galore:rank=8,per_layer=true")
    assert scenario(method=inside).accumulation == 1
    with pytest.raises(MemprofError, match=f"^galore updates inside backward .*{words}"):
        scenario(method=inside, **fields)


def test_sizes() -> None:
    case = scenario(batch_size=3, accumulation=4, seq_len=5, dtype="fp32")
    assert (case.tokens, case.examples, case.itemsize) == (15, 12, 4)
    assert sum(weight.nbytes for weight in case.weights()) == 4 * case.shape.num_parameters
