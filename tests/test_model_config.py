"""Reading config.json: exact shapes from honest files, one clear line for everything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memprof.errors import MemprofError
from memprof.model_config import MAX_BYTES, read_config
from memprof.shapes import SHAPES, LlamaShape

LLAMA3_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
SMALLEST: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def read(tmp_path: Path, content: object) -> LlamaShape:
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_config(path)


def refusal(tmp_path: Path, content: object) -> str:
    with pytest.raises(MemprofError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 400, message
    return message.removeprefix(f"model config {str(tmp_path / 'config.json')!r}: ")


def test_llama3_8b_is_the_named_shape(tmp_path: Path) -> None:
    shape = read(tmp_path, LLAMA3_8B)
    assert shape == SHAPES["llama3-8b"]
    assert shape.num_parameters == 8_030_261_248


def test_llama32_1b_with_scaled_rope_and_tied_head(tmp_path: Path) -> None:
    rope = {"factor": 32.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}
    own = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}
    shape = read(tmp_path, LLAMA3_8B | own | {"rope_scaling": rope, "tie_word_embeddings": True})
    assert shape == SHAPES["llama3.2-1b"]
    assert shape.num_parameters == 1_235_814_400


def test_fields_left_out_have_llama_config_defaults(tmp_path: Path) -> None:
    shape = read(tmp_path, SMALLEST)
    assert (shape.num_key_value_heads, shape.head_dim, shape.tie_word_embeddings) == (4, 16, False)
    assert (shape.rms_norm_eps, shape.rope_theta) == (1e-6, 10_000.0)
    by_hand = 2 * 100 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
    assert shape.num_parameters == by_hand


def test_null_means_left_out(tmp_path: Path) -> None:
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_theta", "rope_scaling", "hidden_act", "mlp_bias"))
    assert read(tmp_path, SMALLEST | nulls) == read(tmp_path, SMALLEST)


def test_head_dim_may_differ_from_hidden_size_over_heads(tmp_path: Path) -> None:
    shape = read(tmp_path, SMALLEST | {"head_dim": 32, "num_key_value_heads": 2})
    by_hand = 2 * 100 * 64 + 2 * (2 * 64 * 128 + 2 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
    assert shape.num_parameters == by_hand


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_theta_inside_rope_parameters_overrules_the_outer_one(tmp_path: Path, place: str) -> None:
    config = SMALLEST | {"rope_theta": 10_000, place: {"rope_type": "default", "rope_theta": 500_000}}
    assert read(tmp_path, config).rope_theta == 500_000.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' is not taken; it must be \"llama\""),
        ({"model_type": None}, 'model_type None is not taken; it must be "llama"'),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not taken; it must be \"silu\""),
        ({"attention_bias": True}, "attention_bias True is not taken; it must be false"),
        ({"mlp_bias": 0}, "mlp_bias 0 is not taken; it must be false"),
        ({"attention_dropout": 0.1}, "attention_dropout 0.1 is not taken; it must be 0"),
        ({"hidden_size": None}, "hidden_size is missing; it must be an integer from 1 to 65536"),
        ({"hidden_size": "64"}, "hidden_size is '64'; it must be an integer from 1 to 65536"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0; it must be an integer from 1 to 65536"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True; it must be an integer from 1 to 1000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be an integer from 1 to 1000"),
        ({"vocab_size": -1}, "vocab_size is -1; it must be an integer from 1 to 2000000"),
        ({"vocab_size": 10**18}, "vocab_size is 1000000000000000000; it must be an integer from 1 to 2000000"),
        ({"vocab_size": [100]}, "vocab_size is [100]; it must be an integer from 1 to 2000000"),
        ({"num_attention_heads": 5}, "hidden_size 64 must be a multiple of num_attention_heads 5, or give head_dim"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 must be a multiple of num_key_value_heads 3"),
        ({"head_dim": 15}, "head_dim 15 must be even for rotary embeddings"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it must be true or false"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; it must be a number above 0, at most 1"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; it must be a number above 0, at most 1"),
        ({"rope_theta": False}, "rope_theta is False; it must be a number above 0, at most 1e+12"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta is -1; it must be a number above 0, at most 1e+12"),
    ],
)
def test_a_bad_field_is_named_with_what_it_may_be(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    assert refusal(tmp_path, SMALLEST | change) == says


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON in UTF-8 (Expecting value: line 1 column 1 (char 0))"),
        (b"\x80\x81", "not JSON in UTF-8 ('utf-8' codec can't decode byte 0x80 in position 0: invalid start byte)"),
        (b"\x00" * 100, "not JSON in UTF-8 (Expecting value: line 1 column 1 (char 0))"),
        (b"[]", "not a config.json; it must hold one JSON object"),
        (b"[" * MAX_BYTES, "not a config.json; it nests too deeply"),
        (b'{"a":' * 100_000, "not a config.json; it nests too deeply"),
        (b" " * (MAX_BYTES + 1), f"too large; a config.json has at most {MAX_BYTES} bytes"),
        (b'{"a": 1, "a": 2}', "not a config.json; a field stands there twice"),
        (b'{"x": {"a": 1, "a": 1}}', "not a config.json; a field stands there twice"),
        (b'{"a": NaN}', "not a config.json; NaN is not a number of JSON"),
        (b'{"a": -Infinity}', "not a config.json; -Infinity is not a number of JSON"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", "not a config.json; a number has more than 20 digits"),
        (b'{"model_type": "' + b"x" * 10_000 + b'"}', "model_type 'xxx"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    assert refusal(tmp_path, content).startswith(says)


def test_infinity_by_overflow_is_refused(tmp_path: Path) -> None:
    text = json.dumps(SMALLEST)[:-1] + ', "rope_theta": 1e999}'
    assert refusal(tmp_path, text.encode()) == "rope_theta is inf; it must be a number above 0, at most 1e+12"


def test_too_many_parameters_are_refused(tmp_path: Path) -> None:
    huge = {"hidden_size": 65_536, "intermediate_size": 262_144, "num_hidden_layers": 1000, "num_attention_heads": 64}
    assert "more than memprof takes" in refusal(tmp_path, SMALLEST | huge)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("", "pipe", "device", "loop", "absent", "absent/config.json", "nul\0", "x" * 5000):
        with pytest.raises(MemprofError, match=r"give the path of a config\.json") as caught:
            read_config(tmp_path / name)
        assert str(caught.value).isprintable()


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """Hugging Face's cache is made of links."""
    (tmp_path / "blob").write_text(json.dumps(SMALLEST))
    (tmp_path / "config.json").symlink_to("blob")
    assert read_config(tmp_path / "config.json").hidden_size == 64


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SIZES = st.integers(-2, 70) | st.sampled_from([2**16, 2**31, 2**63, 10**30])
CONFIGS = st.dictionaries(
    st.sampled_from([*LLAMA3_8B, "head_dim", "mlp_bias", "rope_parameters"]),
    SIZES | st.floats() | st.dictionaries(st.just("rope_theta"), JSON_VALUES) | JSON_VALUES,
    max_size=4,
)


def takes_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        shape = read_config(path)
    except MemprofError as error:
        assert str(error).isprintable()
    else:
        assert shape.num_parameters > 0


no_fixture_check = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@no_fixture_check
@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789.eE-+\\u \n', max_size=80).map(str.encode))
def test_garbage_never_escapes_as_another_error(tmp_path: Path, content: bytes) -> None:
    takes_or_refuses(tmp_path / "config.json", content)


@no_fixture_check
@given(change=CONFIGS)
def test_any_values_in_known_fields_never_escape_as_another_error(tmp_path: Path, change: dict[str, object]) -> None:
    takes_or_refuses(tmp_path / "config.json", json.dumps(SMALLEST | change).encode())
