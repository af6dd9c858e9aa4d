"""Names and settings as a user writes them, in any spelling, to methods or to one clear line."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.api import compare
from memprof.catalogue import CORE, METHODS, get_method
from memprof.errors import MemprofError
from memprof.method import Method
from memprof.methods.adamw import AdamW

every_method = pytest.mark.parametrize("name", METHODS)


def test_the_core_eight() -> None:
    core = ("adamw", "adafactor", "adam-mini", "galore", "galore-mini", "low-rank", "lora", "relora")
    assert core == CORE == tuple(METHODS)[:8]


@every_method
def test_a_name_alone_gives_the_defaults(name: str) -> None:
    method = get_method(name)
    assert (method.name, type(method)) == (name, METHODS[name])
    assert method == METHODS[name]() == get_method(f"{name}:")
    assert method.paper
    for spec in dataclasses.fields(METHODS[name]):
        assert spec.metadata["help"], f"{name}.{spec.name} needs a line of help"


def spelt(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


@every_method
def test_what_a_method_says_of_itself_is_read_back(name: str) -> None:
    """Every field, spelt out, of every type."""
    method = get_method(name)
    text = ",".join(f"{key}={spelt(value)}" for key, value in method.hyperparameters().items())
    assert get_method(f"{name}:{text}") == method


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ("galore:rank=128,update_gap=50", {"rank": 128, "update_gap": 50}),
        ("galore: rank = 128 , scale = 1 ", {"rank": 128, "scale": 1.0}),
        ("galore:rank=none", {"rank": None}),
        ("galore:rank=None", {"rank": None}),
        ("galore:betas=0.9/0.95", {"betas": (0.9, 0.95)}),
        ("galore:lr=1e-3,,", {"lr": 1e-3}),
        ("adafactor:beta1=none,scale_parameter=TRUE", {"beta1": None, "scale_parameter": True}),
        ("adafactor:beta1=0,decay_rate=-0.5", {"beta1": 0.0, "decay_rate": -0.5}),
        ("low-rank:init=spectral", {"init": "spectral"}),
        ("relora:reset_every=1000,prune=1", {"reset_every": 1000, "prune": 1.0}),
    ],
)
def test_settings_have_their_types(spec: str, fields: dict[str, Any]) -> None:
    method = get_method(spec)
    seen = {key: getattr(method, key) for key in fields}
    assert seen == fields
    assert {key: type(value) for key, value in seen.items()} == {key: type(value) for key, value in fields.items()}
    assert get_method(spec.partition(":")[0], **fields) == method


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("adam", "unknown method 'adam'; choose from adamw, adafactor"),
        ("", "unknown method ''; choose from adamw"),
        ("GaLore", "unknown method 'GaLore'"),
        ("galore:gap=50", "galore: unknown field 'gap'; choose from rank, update_gap, scale"),
        ("galore:name=x", "galore: unknown field 'name'"),
        ("galore:rank", "galore: 'rank' is not key=value; write galore:rank=..."),
        ("galore:rank=ten", "galore: rank=ten does not fit; it must be an integer, at least 1"),
        ("galore:rank=1.5", "galore: rank=1.5 does not fit"),
        ("galore:rank=0", "galore: rank=0 is out of range; it must be an integer, at least 1"),
        ("galore:lr=0", "galore: lr=0.0 is out of range; it must be a finite number, above 0"),
        ("galore:lr=nan", "galore: lr=nan is out of range"),
        ("galore:lr=-inf", "galore: lr=-inf is out of range"),
        ("galore:lr=1e400", "galore: lr=inf is out of range"),
        ("galore:lr=none", "galore: lr=none does not fit"),
        ("galore:betas=0.9", "galore: betas=0.9 does not fit"),
        ("galore:betas=0.9/0.9/0.9", "does not fit"),
        ("galore:betas=0.9/1", "is out of range"),
        ("galore:betas=-0.1/0.9", "is out of range"),
        ("adafactor:scale_parameter=yes", "scale_parameter=yes does not fit"),
        ("low-rank:init=zeros", "low-rank: init='zeros' is unknown; choose from random, spectral"),
        ("relora:prune=1.1", "prune=1.1 is out of range; it must be a finite number, at least 0, at most 1"),
    ],
)
def test_mistakes_get_one_line_that_names_what_is_allowed(spec: str, words: str) -> None:
    with pytest.raises(MemprofError) as error:
        get_method(spec)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    ["x" * 100_000, "galore:" + "x" * 100_000, "galore:rank=" + "9" * 100_000, "galore:" + "x" * 100_000 + "=1",
     "low-rank:init=" + "x" * 100_000, "galore:lr=" + "x" * 100_000, "galore:rank=" + "9" * 4_000],
)  # fmt: skip
def test_a_very_long_mistake_is_cut(spec: str) -> None:
    with pytest.raises(MemprofError) as error:
        get_method(spec)
    assert len(str(error.value)) < 500, f"{len(str(error.value))} characters"


def test_keyword_arguments_are_checked_as_text_is() -> None:
    with pytest.raises(MemprofError, match="galore: unknown field 'gap'; choose from"):
        get_method("galore", gap=50)
    with pytest.raises(MemprofError, match="rank=0 is out of range"):
        get_method("galore", rank=0)
    assert get_method("galore:rank=4,lr=0.1", rank=5) == get_method("galore:rank=5,lr=0.1")


def test_a_method_goes_through_as_it_is() -> None:
    method = get_method("galore:rank=3")
    assert get_method(method) == method
    assert get_method(method, rank=4) == get_method("galore:rank=4")


def test_a_field_that_a_given_method_does_not_have_is_named() -> None:
    with pytest.raises(MemprofError, match="galore: unknown field 'gap'; choose from rank, update_gap"):
        get_method(get_method("galore"), gap=50)


@dataclasses.dataclass(frozen=True, slots=True)
class Nameless(Method):
    lr: float = 0.1

    def prepare(self, model: Any) -> Any:
        raise AssertionError("it is refused before")

    def formula(self, weight: Any) -> Any:
        raise AssertionError("it is refused before")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AdamW, "AdamW is a class; give an object of it: AdamW()"),
        (Fraction, "a method is a name or a Method object, not <class 'fractions.Fraction'>"),
        (Fraction(1), "a method is a name or a Method object, not Fraction(1, 1)"),
        (None, "a method is a name or a Method object, not None"),
    ],
)
def test_what_is_no_method_gets_one_line(spec: Any, words: str) -> None:
    with pytest.raises(MemprofError, match=re.escape(words)):
        get_method(spec)
    with pytest.raises(MemprofError, match=re.escape(words)):
        compare(models=["9m"], methods=[spec])


def test_a_bare_class_gets_one_line_too() -> None:
    with pytest.raises(MemprofError, match="AdamW is a class"):
        compare(models="9m", methods=AdamW)  # type: ignore[arg-type]


def test_a_method_without_a_name_says_so_when_it_is_made() -> None:
    with pytest.raises(MemprofError, match=r"Nameless has no name; write name: ClassVar\[str\] = \.\.\. in the class"):
        Nameless()


@given(st.text())
def test_any_text_is_a_method_or_one_line(text: str) -> None:
    check(text)


setting = st.tuples(
    st.one_of(
        st.sampled_from(sorted({f.name for kind in METHODS.values() for f in dataclasses.fields(kind)})), st.text()
    ),
    st.one_of(st.text(), st.floats().map(str), st.integers().map(str), st.sampled_from(["none", "true", "0.9/0.9"])),
)


@given(st.sampled_from(sorted(METHODS)), st.lists(setting, max_size=4))
def test_any_settings_are_a_method_or_one_line(name: str, settings: list[tuple[str, str]]) -> None:
    check(f"{name}:" + ",".join(f"{key}={value}" for key, value in settings))


def check(spec: str) -> None:
    try:
        method = get_method(spec)
    except MemprofError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
    else:
        assert isinstance(method, Method)
        assert get_method(method) == method
