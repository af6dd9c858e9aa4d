"""Named shapes against the counts that papers and model cards publish."""

from __future__ import annotations

from typing import Any

import pytest

from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.shapes import SHAPES, get_shape

PUBLISHED = {
    "9m": 8_995_968,
    "20m": 19_548_416,
    "35m": 35_197_824,
    "60m": 58_073_600,
    "71m": 70_578_688,
    "100m": 99_989_120,
    "130m": 134_105_856,
    "250m": 247_370_496,
    "350m": 367_969_280,
    "1b": 1_339_082_752,
    "3b": 2_685_831_680,
    "7b": 6_738_415_616,
    "13b": 13_015_864_320,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
}
WITH_32100_WORDS = {
    "9m": 9_021_568,
    "60m": 58_176_000,
    "130m": 134_259_456,
    "350m": 368_174_080,
    "1b": 1_339_492_352,
    "7b": 6_739_234_816,
}
ATTENTION_AND_MLP = {
    "9m": 802_816,
    "60m": 25_296_896,
    "250m": 198_180_864,
    "350m": 302_383_104,
    "1b": 1_207_910_400,
    "7b": 6_476_005_376,
}


def test_every_shape_is_checked() -> None:
    assert list(SHAPES) == list(PUBLISHED)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    shape = get_shape(name)
    assert shape.num_parameters == count
    assert sum(weight.numel for weight in shape.weights(2)) == count
    model = build_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("name", "count"), WITH_32100_WORDS.items())
def test_counts_with_the_relora_vocabulary(name: str, count: int) -> None:
    assert get_shape(name, vocab_size=32_100).num_parameters == count


@pytest.mark.parametrize(("name", "count"), ATTENTION_AND_MLP.items())
def test_counts_of_what_low_rank_methods_treat(name: str, count: int) -> None:
    assert sum(weight.numel for weight in get_shape(name).weights(2) if weight.is_matrix) == count


def test_overrides() -> None:
    assert get_shape("9m", num_layers=2) == get_shape("9m", num_hidden_layers=2)
    assert get_shape("9m", vocab_size=None) == get_shape("9m")
    with pytest.raises(MemprofError, match="unknown shape field 'depth'; choose from num_layers, hidden_size"):
        get_shape("9m", depth=3)
    with pytest.raises(MemprofError, match="unknown model '8m'; choose from 9m, 20m"):
        get_shape("8m")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", -1),
        ("vocab_size", 2_000_001),
        ("vocab_size", True),
        ("vocab_size", 32.0),
        ("vocab_size", "32000"),
        ("num_layers", 0),
        ("num_layers", 1001),
        ("num_layers", 10**30),
        ("head_dim", 33),
        ("num_key_value_heads", 3),
        ("hidden_size", float("nan")),
    ],
)
def test_absurd_sizes_are_refused(field: str, value: Any) -> None:
    name = "num_hidden_layers" if field == "num_layers" else field
    with pytest.raises(MemprofError, match=name) as error:
        get_shape("9m", **{field: value})
    assert "\n" not in str(error.value)


def test_more_parameters_than_any_model_has_are_refused() -> None:
    with pytest.raises(MemprofError, match="more than memprof takes"):
        get_shape("llama3.1-405b", num_layers=1000, hidden_size=65_536)
