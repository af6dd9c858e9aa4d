"""The contract's own rules: settings, ranks, groups, roles."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.catalogue import METHODS
from memprof.errors import MemprofError
from memprof.method import ATTENTION_AND_MLP, MAX_DEFAULT_RANK, Role, Weight, bound_rank, groups, role_of
from memprof.shapes import get_shape

BOUNDED = [(name, spec) for name, kind in METHODS.items() for spec in dataclasses.fields(kind)]
numbers = [(n, s) for n, s in BOUNDED if not isinstance(s.default, str | bool)]
each_number = pytest.mark.parametrize(("name", "spec"), numbers, ids=lambda x: x if isinstance(x, str) else x.name)


def with_value(name: str, spec: dataclasses.Field[Any], value: Any) -> Any:
    """The method with one field set; in a tuple each part."""
    parts = len(spec.default) if isinstance(spec.default, tuple) else 0
    inner = spec.name == "beta1" and any(other.name == "inner" for other in dataclasses.fields(METHODS[name]))
    partner = {"inner": "adafactor"} if inner else {}  # the one inner optimizer that has it
    return METHODS[name](**{spec.name: (value,) * parts if parts else value, **partner})


@each_number
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_no_setting_is_without_end(value: Any, name: str, spec: dataclasses.Field[Any]) -> None:
    with pytest.raises(MemprofError, match=f"{name}: {spec.name}=.* must be") as error:
        with_value(name, spec, value)
    assert len(str(error.value)) < 300


@each_number
def test_bounds_are_kept_to_the_letter(name: str, spec: dataclasses.Field[Any]) -> None:
    whole = "int" in str(spec.type)
    for bound, limit in spec.metadata["bounds"].items():
        edge = int(limit) if whole else float(limit)
        beyond = edge - 1 if bound in ("least", "above") else edge + 1
        for value, fits in ((edge, bound in ("least", "most")), (beyond, False)):
            if fits:
                with_value(name, spec, value)
            else:
                with pytest.raises(MemprofError, match=f"{spec.name}=.* is out of range"):
                    with_value(name, spec, value)


@pytest.mark.parametrize(("name", "spec"), BOUNDED, ids=lambda x: x if isinstance(x, str) else x.name)
@pytest.mark.parametrize("value", ["8", [1], {}, object, b"x"])
def test_a_setting_has_its_type(value: Any, name: str, spec: dataclasses.Field[Any]) -> None:
    with pytest.raises(MemprofError, match=f"{name}: {spec.name}=.*(does not fit|is unknown)"):
        METHODS[name](**{spec.name: value})


def test_a_flag_is_no_number_and_half_no_integer() -> None:
    for name, fields in (("galore", {"rank": True}), ("galore", {"rank": 1.5}), ("galore", {"lr": True}),
                         ("adafactor", {"scale_parameter": 1}), ("galore", {"betas": (0.9,)})):  # fmt: skip
        with pytest.raises(MemprofError, match="does not fit"):
            METHODS[name](**fields)
    assert METHODS["galore"](**{"lr": 1}).hyperparameters()["lr"] == 1


@pytest.mark.parametrize(("model", "rank"), [("9m", 32), ("60m", 128), ("1b", 256), ("7b", MAX_DEFAULT_RANK)])
def test_the_default_rank_is_a_quarter_of_the_smallest_side(model: str, rank: int) -> None:
    assert bound_rank("x", None, get_shape(model).weights(2)) == rank


def test_ranks_are_checked_against_every_treated_side() -> None:
    weights = get_shape("9m", num_key_value_heads=1).weights(2)
    assert bound_rank("x", None, weights) == 32 // 4
    assert bound_rank("x", 32, weights) == 32
    with pytest.raises(MemprofError, match=r"x: rank 33 is larger than model.layers.0.self_attn.k_proj.weight \(32 x"):
        bound_rank("x", 33, weights)
    tiny = [Weight("q", Role.Q, (2, 3), 1, 2)]
    assert bound_rank("x", None, tiny) == 1
    with pytest.raises(MemprofError, match="no attention or MLP matrices"):
        bound_rank("x", None, [Weight("norm", Role.NORM, (4,), 1, 2)])


@given(st.lists(st.integers(0, 100)), st.integers(0, 300))
def test_groups_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    """Nothing is lost or moved; a group is within the limit or alone; and no group could take the next item too."""
    cut = groups(sizes, lambda size: size, limit)
    assert [size for group in cut for size in group] == sizes
    assert all(group for group in cut)
    assert all(sum(group) <= limit or len(group) == 1 for group in cut)
    assert all(sum(group) + after[0] > limit for group, after in zip(cut, cut[1:], strict=False))


@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from("abc"))), st.integers(0, 300))
def test_groups_are_of_one_kind_and_each_kind_is_cut_as_if_alone(items: list[tuple[int, str]], limit: int) -> None:
    def cut(some: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
        return groups(some, lambda item: item[0], limit, lambda item: item[1])

    alone = [cut([item for item in items if item[1] == kind]) for kind in dict.fromkeys(kind for _, kind in items)]
    assert cut(items) == [group for of_a_kind in alone for group in of_a_kind]
    assert all(len({kind for _, kind in group}) == 1 for group in cut(items))


@pytest.mark.parametrize(
    ("name", "ndim", "role"),
    [
        ("model.embed_tokens.weight", 2, Role.EMBED),
        ("lm_head.weight", 2, Role.HEAD),
        ("model.norm.weight", 1, Role.NORM),
        ("model.layers.11.input_layernorm.weight", 1, Role.NORM),
        ("model.layers.0.self_attn.k_proj.weight", 2, Role.K),
        ("model.layers.0.self_attn.k_proj.bias", 1, Role.OTHER),
        ("model.layers.0.mlp.down_proj.weight", 2, Role.DOWN),
        ("conv.weight", 4, Role.OTHER),
        ("0.weight", 2, Role.OTHER),
        ("weight", 2, Role.OTHER),
    ],
)
def test_roles_by_hugging_faces_names(name: str, ndim: int, role: Role) -> None:
    assert role_of(name, ndim) == role


def test_what_low_rank_methods_treat() -> None:
    treated = {weight.role for weight in get_shape("9m").weights(2) if weight.is_matrix}
    assert treated == ATTENTION_AND_MLP
