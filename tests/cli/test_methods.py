"""`memprof methods`: the list, and a card for each method."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from memprof.catalogue import METHODS, get_method

Main = Callable[..., Any]


def test_the_list_holds_the_catalogue_with_papers(memprof_main: Main) -> None:
    outcome = memprof_main("methods")
    assert (outcome.code, outcome.err) == (0, "") and "\x1b" not in outcome.out
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    for name, method in METHODS.items():
        assert method.paper in lines[name]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_a_card(memprof_main: Main, name: str) -> None:
    outcome = memprof_main("methods", name)
    assert (outcome.code, outcome.err) == (0, "")
    method = METHODS[name]
    assert outcome.out.startswith(f"{name}  ({method.paper})\n")
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    for field in dataclasses.fields(method):
        assert field.metadata["help"] in rows[field.name]


def test_a_card_says_what_is_treated_what_it_costs_and_what_papers_use(memprof_main: Main) -> None:
    card = memprof_main("methods", "galore").out
    assert "Treats: attention and MLP matrices; the rest is trained by the inner optimizer." in card
    assert inspect.getdoc(METHODS["galore"].formula).splitlines()[0] in card  # type: ignore[union-attr]
    # by hand: N weights of 2 bytes; basis and two moments at rank 256, or two moments, of each weight
    matrices = 24 * 256 * (4 * (2048 + 2 * 2048) + 3 * (2048 + 2 * 5461))
    others = 2 * (2 * 32000 * 2048 + 49 * 2048)
    gib = 2 * (matrices + others) / 2**30
    assert f"weights {2 * 1_339_082_752 / 2**30:.2f} GiB" in card and f"optimizer state {gib:.2f} GiB" in card


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("galore-dynamics", {"update_gap": "200 at first", "gap_growth": "1.5", "largest_gap": "2500"}),
        ("galore-ef", {"update_gap": "50", "feedback": "0.1"}),
        ("galore-dynamics-ef", {"update_gap": "200 at first", "largest_gap": "2500", "feedback": "0.2"}),
    ],
)
def test_what_papers_use_is_of_the_methods_own_paper(memprof_main: Main, name: str, told: dict[str, str]) -> None:
    """Defaults, help and bounds stay GaLore's."""
    rows = {line.split()[0]: line for line in memprof_main("methods", name).out.splitlines() if line.strip()}
    papers = {spec.name: spec.metadata["papers"] for spec in dataclasses.fields(METHODS[name])}
    assert {key: papers[key] for key in told} == told
    assert {key: papers[key] for key in ("rank", "scale", "lr")} == {"rank": "256", "scale": "1", "lr": "0.0015"}
    assert not any("7b" in text or "command line" in text for text in papers.values())
    assert " 256 " in rows["rank"] and " 0.0015 " in rows["lr"]
    for spec in dataclasses.fields(METHODS["galore"]):
        own = next(field for field in dataclasses.fields(METHODS[name]) if field.name == spec.name)
        assert {**own.metadata, "papers": ""} == {**spec.metadata, "papers": ""} and own.default == spec.default


@pytest.mark.parametrize("name", METHODS)
def test_a_card_says_which_weights_are_treated(memprof_main: Main, name: str) -> None:
    assert f"Treats: {METHODS[name].treats}." in memprof_main("methods", name).out and METHODS[name].treats


def test_a_card_takes_settings_and_shows_what_they_cost(memprof_main: Main) -> None:
    plain, fp32 = (memprof_main("methods", spec).out for spec in ("adamw", "adamw:state_dtype=fp32"))
    gib = 2 * 1_339_082_752 / 2**30
    assert f"On 1b in bf16: weights {gib:.2f} GiB, gradients {gib:.2f} GiB, optimizer state {2 * gib:.2f} GiB" in plain
    assert f"On 1b in bf16, with state_dtype=fp32: weights {gib:.2f} GiB" in fp32
    assert f"optimizer state {4 * gib:.2f} GiB" in fp32


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_written_as_the_option_takes_them(memprof_main: Main, name: str) -> None:
    """What the card prints for a default, given back through name:key=value, is that default."""
    rows = {line.split()[0]: line.split() for line in memprof_main("methods", name).out.splitlines() if line.strip()}
    for field, value in METHODS[name]().hyperparameters().items():
        written = "/".join(map(str, value)) if isinstance(value, tuple) else str(value).replace("None", "none")
        assert written in rows[field]
        assert get_method(f"{name}:{field}={written}") == METHODS[name]()


def test_a_whole_number_is_asked_for_as_one(memprof_main: Main) -> None:
    assert "an integer, at least 1" in memprof_main("methods", "galore").out
    assert "must be an integer, at least 1" in memprof_main("compare", "--method", "galore:rank=1.5").err


def test_an_unknown_method_names_the_known(memprof_main: Main) -> None:
    outcome = memprof_main("methods", "nope")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"memprof: unknown method 'nope'; choose from {', '.join(METHODS)}\n"
