"""Whole trajectories against the oracles of `fidelity`: plain twins; public implementations by `make reference`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fidelity.compare import TWIN, Comparison, comparisons, run
from fidelity.problem import Trainer
from memprof.catalogue import METHODS, get_method

ALL = list(comparisons())
TWINS = [comparison for comparison in ALL if comparison.oracle == TWIN]
REFERENCES = [comparison for comparison in ALL if comparison.oracle != TWIN]


def check(comparison: Comparison) -> None:
    drift = run(comparison)
    assert drift.agrees(comparison), f"{comparison.name}: {drift}; limit {comparison.limit:.0e}; {comparison.note}"


@pytest.mark.parametrize("comparison", TWINS, ids=lambda comparison: comparison.name)
def test_a_method_is_its_papers_equations(comparison: Comparison) -> None:
    check(comparison)


@pytest.mark.reference
@pytest.mark.parametrize("comparison", REFERENCES, ids=lambda comparison: comparison.name)
def test_a_method_is_its_public_implementation(comparison: Comparison) -> None:
    if comparison.version is None:
        pytest.skip(f"{comparison.oracle} is not installed")
    check(comparison)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_twin(name: str) -> None:
    assert name in {comparison.method.partition(":")[0] for comparison in TWINS}


def test_every_comparison_names_a_method_that_can_be_made() -> None:
    for comparison in ALL:
        assert get_method(comparison.method).name in METHODS


def test_drift_is_relative_to_the_way_gone_and_nan_is_the_worst() -> None:
    start = {"w": torch.zeros(2, 2)}

    def side(*values: float) -> Trainer:
        return lambda step: {"w": torch.full((2, 2), values[step])}

    def drift(mine: Trainer, theirs: Trainer) -> float:
        comparison = dataclasses.replace(TWINS[0], start=lambda: (start, mine, theirs), steps=2)
        return run(comparison).relative

    assert drift(side(1.0, 2.0), side(1.0, 2.0)) == 0
    assert drift(side(1.0, 2.2), side(1.0, 2.0)) == pytest.approx(0.1)
    nan: Tensor = torch.tensor(drift(side(1.0, float("nan")), side(1.0, 2.0)))
    assert nan.isnan()
