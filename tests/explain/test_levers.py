"""Levers: each against another trace of what its options say, together against every subset there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from memprof.api import plan
from memprof.explain.levers import CHANGES, CHUNKS, Change, heaviest, levers, options
from memprof.explanation import WORTHWHILE, Lever
from memprof.formula import formula
from memprof.scenario import Scenario
from memprof.trace import trace

TINY: dict[str, Any] = {"num_layers": 2, "vocab_size": 64, "batch_size": 2, "seq_len": 16}


def scenario(method: Any, **fields: Any) -> Scenario:
    return plan(["9m"], [method], **(TINY | fields))[0]


def levers_of(case: Scenario) -> tuple[Lever, ...]:
    return levers(case, heaviest(trace(case)))


def lever(name: str) -> Change:
    (change,) = (change for change in CHANGES if change.name == name)
    return change


def as_written(said: Lever, method: str, **fields: Any) -> Scenario:
    """The scenario of a command line that says a lever's options as well, last."""
    method = next((option for option in said.options if not option.startswith("--")), method)
    words = [option.removeprefix("--").split() for option in said.options if option.startswith("--")]
    return scenario(
        method, **fields | {name.replace("-", "_"): int(*value) if value else True for name, *value in words}
    )


@pytest.mark.parametrize(
    "method",
    ["galore", "galore:rank=8", "galore:rank=8,side=right,betas=0.5/0.99", "adamw:betas=0.5/0.9,eps=1e-06"],
)
def test_levers_are_what_another_trace_finds(method: str) -> None:
    """Each option written out as a command line has it, planned and traced anew: the very scenario, its rank too."""
    plain = scenario(method)
    found, peak = levers_of(plain), heaviest(trace(plain))
    assert [lever.saves for lever in found] == sorted((lever.saves for lever in found), reverse=True)
    possible = {change.name for change in CHANGES if change.apply(plain) is not None}
    assert {change for lever in found for change in lever.changes} == possible
    for said in found:
        again = heaviest(trace(as_written(said, method)))
        assert (said.peak, said.saves) == (again, peak - again)
        if len(said.changes) == 1:
            assert as_written(said, method).id == lever(said.name).apply(plain).id  # type: ignore[union-attr]


def test_every_kind_of_lever_is_offered_to_galore() -> None:
    assert {change for said in levers_of(scenario("galore")) for change in said.changes} == {c.name for c in CHANGES}


def test_eight_bit_keeps_adamws_settings() -> None:
    case = scenario("adamw:betas=0.5/0.9,eps=1e-06,lr=0.1,weight_decay=0.2,state_dtype=fp32")
    changed = lever("8-bit states").apply(case)
    assert changed is not None and changed.method.name == "adamw-8bit"
    kept = {"betas": (0.5, 0.9), "eps": 1e-6, "lr": 0.1, "weight_decay": 0.2}
    assert {name: getattr(changed.method, name) for name in kept} == kept


def subsets(case: Scenario) -> dict[tuple[str, ...], int]:
    """The peak with each set of changes that can be combined."""
    found = {}
    for count in range(len(CHANGES) + 1):
        for changes in combinations(CHANGES, count):
            changed: Scenario | None = case
            for change in changes:
                changed = change.apply(changed) if changed is not None else None
            if changed is not None:
                found[tuple(change.name for change in changes)] = heaviest(trace(changed))
    return found


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("galore", {"vocab_size": 2048}),
        ("adamw", {"batch_size": 9, "seq_len": 256}),
        ("galore:per_layer=true", {"vocab_size": 2048, "seq_len": 64}),
    ],
)
def test_what_is_said_of_several_is_the_best_of_all_subsets(method: str, fields: dict[str, Any]) -> None:
    """No smaller subset comes as low, none of its size comes lower, none at all comes lower worth the while."""
    case = scenario(method, num_layers=1, **fields)
    (together,) = (said for said in levers_of(case) if len(said.changes) > 1)
    traced = subsets(case)
    assert traced[together.changes] == together.peak
    assert together.peak <= min(traced.values()) * (1 + WORTHWHILE)
    for changes, peak in traced.items():
        if len(changes) < len(together.changes):
            assert peak > min(traced.values()) * (1 + WORTHWHILE)
        elif len(changes) == len(together.changes):
            assert peak >= together.peak


def test_nothing_is_said_of_several_where_one_does_it() -> None:
    """In 2 tokens there is hardly an activation to spare: AdamW's moments are what remains."""
    case = scenario("adamw", batch_size=1, seq_len=2)
    assert max(len(said.changes) for said in levers_of(case)) == 1
    assert min(subsets(case).values()) * (1 + WORTHWHILE) >= min(said.peak for said in levers_of(case))


def test_what_a_device_must_hold_is_the_heavier_step() -> None:
    said = formula(scenario("galore"))
    assert heaviest(replace(said, peak=5, refresh_peak=7)) == 7
    assert heaviest(replace(said, peak=5, refresh_peak=3)) == heaviest(replace(said, peak=5, refresh_peak=None)) == 5


def test_a_lever_helps_from_a_hundredth_of_the_peak_on() -> None:
    def saving(saves: int) -> Lever:
        return Lever(changes=("x",), options=(), price="", peak=1000 - saves, saves=saves)

    assert [saving(saves).helps for saves in (-10, 0, 9, 10, 500)] == [False, False, False, True, True]


def test_more_pieces_of_the_loss_are_offered_where_there_are_few() -> None:
    for chunks, options_said in ((1, True), (2, True), (CHUNKS, False), (CHUNKS + 1, False)):
        changed = lever("chunked loss").apply(scenario("adamw", loss_chunks=chunks))
        assert (changed is not None) == options_said
        assert changed is None or changed.loss_chunks == CHUNKS


@pytest.mark.parametrize(("batch", "smaller"), [(8, (4, 2)), (9, (3, 3)), (7, (1, 7)), (35, (7, 5))])
def test_an_odd_micro_batch_is_cut_by_its_smallest_divisor(batch: int, smaller: tuple[int, int]) -> None:
    changed = lever("smaller micro-batches").apply(scenario("adamw", batch_size=batch))
    assert changed is not None and (changed.batch_size, changed.accumulation) == smaller
    assert lever("smaller micro-batches").apply(scenario("adamw", batch_size=1)) is None


@pytest.mark.parametrize(
    ("method", "fields"),
    [("adamw", {"loss_chunks": 8, "batch_size": 2, "seq_len": 4}), ("galore", {"clip_grad_norm": 1.0})],
)
def test_an_impossible_lever_does_not_end_the_others(method: str, fields: dict[str, Any]) -> None:
    assert levers_of(scenario(method, num_layers=1, **fields))


def test_levers_that_are_pulled_already_are_left_out() -> None:
    fields = {"checkpointing": True, "loss_chunks": CHUNKS, "batch_size": 1}
    assert levers_of(scenario("galore:per_layer=true,inner=adafactor", **fields)) == ()


def test_a_lever_that_the_step_cannot_do_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from memprof.errors import UnsupportedError

    real = Scenario.__post_init__

    def refuse(self: Scenario) -> None:
        if self.checkpointing:
            raise UnsupportedError("not here")
        real(self)

    monkeypatch.setattr(Scenario, "__post_init__", refuse)
    changes = {change for lever in levers_of(scenario("adamw")) for change in lever.changes}
    assert "chunked loss" in changes and "activation checkpointing" not in changes


def test_options_say_what_changed() -> None:
    before = scenario("galore")
    assert options(before, before) == ()
    after = replace(before, batch_size=1, accumulation=2, method=replace(before.method, betas=(0.5, 0.9)))  # type: ignore[call-arg]
    assert options(before, after) == ("galore:rank=32,betas=0.5/0.9", "--batch-size 1", "--accumulation 2")


@pytest.mark.parametrize(
    ("fields", "impossible"),
    [({"clip_grad_norm": 1.0}, "updates inside backward"), ({"loss_chunks": 32}, "smaller micro-batches")],
)
def test_a_lever_that_a_scenario_cannot_have_is_left_out(fields: dict[str, Any], impossible: str) -> None:
    """No gradient is left to clip, or fewer tokens than pieces of the loss."""
    (change,) = (change for change in CHANGES if change.name == impossible)
    case = scenario("galore:rank=4", **fields)
    assert change.apply(scenario("galore:rank=4")) is not None
    assert change.apply(case) is None
