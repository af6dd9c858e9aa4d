"""What two losses on the same tokens say: that it learns, does not move, goes the wrong way, or is no number."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from memprof.batches import batches
from memprof.learning import EPS, judge, resolution
from memprof.step import TORCH_DTYPE, prepare, train_step
from tests.cells import MEASURED, scenario_of

FOUR: dict[str, Any] = {"batch_size": 2, "seq_len": 2}
"""four tokens: their roundings even out to half of one"""
STEP = 8 * 2.0**-7 / 2
"""what rounding may move a loss of 8 by, in bf16 over four tokens"""


def verdict(first: float | None, last: float | None, dtype: str = "bf16") -> tuple[str, str] | None:
    measured = dataclasses.replace(MEASURED, loss_first=first, loss_last=last)
    found = judge(scenario_of(dtype=dtype, **FOUR), measured)
    return None if found is None else (found.flag, found.reason)


def test_a_loss_that_falls_is_nothing_to_speak_of() -> None:
    assert verdict(8.0, 7.5) is None


@pytest.mark.parametrize(("first", "last"), [(None, None), (8.0, None), (None, 8.0)])
def test_no_number_is_diverged(first: float | None, last: float | None) -> None:
    assert verdict(first, last) == ("diverged", "the loss is not finite: the training diverged")


def test_a_loss_that_rises_is_said_with_its_figures() -> None:
    assert verdict(8.0, 8.5) == ("rose", "the loss rose: 8 to 8.5")


@pytest.mark.parametrize("moved", [0.0, STEP, -STEP])
def test_what_rounding_may_do_is_no_learning(moved: float) -> None:
    found = verdict(8.0, 8.0 + moved)
    assert found is not None and found[0] == "flat"
    assert found[1] == f"the loss did not move: 8 to {8 + moved:.6g}, and bf16 tells no less than 0.03 apart"


def test_what_is_more_than_rounding_is() -> None:
    assert verdict(8.0, math.nextafter(8.0 - STEP, 0.0)) is None
    found = verdict(8.0, math.nextafter(8.0 + STEP, 9.0))
    assert found is not None and found[0] == "rose"


def test_a_loss_in_fp32_is_no_finer_than_fp32() -> None:
    """However many tokens: neighbouring numbers above 8 are 2^-20 apart."""
    assert resolution(scenario_of(dtype="fp32", batch_size=1024), 8.0) == 2.0**-20
    found = verdict(8.0, 8.0 - 2.0**-20, "fp32")
    assert found is not None and found[0] == "flat"
    assert verdict(8.0, 8.0 - 2.0**-19, "fp32") is None


@pytest.mark.parametrize("dtype", EPS)
def test_the_resolution_is_torchs(dtype: str) -> None:
    assert EPS[dtype] == torch.finfo(TORCH_DTYPE[dtype]).eps


@pytest.mark.parametrize(
    ("method", "flag"),
    [("sgd:lr=1,momentum=0", None), ("sgd:lr=1e-9,momentum=0", "flat"), ("adamw:lr=10", "rose")],
    ids=["good", "tiny", "huge"],
)
def test_the_verdict_on_real_steps_is_that_on_the_learning_rate(method: str, flag: str | None) -> None:
    """Gradient descent with a step that is right, next to none and far too long, each on the same tokens."""
    scenario = scenario_of(method, batch_size=8, seq_len=16)
    model, optimizer = prepare(scenario, torch.device("cpu"))
    tokens = next(batches(scenario, torch.device("cpu")))
    losses = [float(train_step(model, optimizer, scenario, batches=iter([tokens]))) for _ in range(4)]
    found = judge(scenario, dataclasses.replace(MEASURED, loss_first=losses[0], loss_last=losses[-1]))
    assert (found.flag if found else None) == flag, losses
