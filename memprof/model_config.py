"""A model's shape from a Hugging Face config.json: read by us, from a few fields with bounds, never executed.

Only model_type "llama" is taken. A field left out, or null, has LlamaConfig's default. Fields that are not named here
(dtype, quantisation, remote code, ...) are not looked at: the scenario says how the model is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

from memprof.errors import MemprofError
from memprof.shapes import BOUNDS, LlamaShape

MAX_BYTES = 2**20
MAX_DIGITS = 20
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
ONLY: dict[str, object] = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0}
"""fields that would make another model than memprof's, and the value that each may have"""
MAX_THETA = 1e12

_short = Repr()
_short.maxstring = _short.maxother = _short.maxlong = 40


def read_config(path: Path) -> LlamaShape:
    """The shape that a config.json describes; a MemprofError in one line where it is not a LLaMA's."""
    try:
        return _shape(_parse(_read(path)))
    except MemprofError as error:
        raise MemprofError(f"model config {str(path)!r}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise MemprofError("not a file; give the path of a config.json")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise MemprofError(f"cannot be read ({_reason(error)}); give the path of a config.json") from None
    if len(content) > MAX_BYTES:
        raise MemprofError(f"too large; a config.json has at most {MAX_BYTES} bytes")
    return content


def _parse(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(
            content.decode(), object_pairs_hook=_without_duplicates, parse_int=_integer, parse_constant=_no_constant
        )
    except RecursionError:
        raise MemprofError("not a config.json; it nests too deeply") from None
    except ValueError as error:
        raise MemprofError(f"not JSON in UTF-8 ({_reason(error)})") from None
    if not isinstance(fields, dict):
        raise MemprofError("not a config.json; it must hold one JSON object")
    return fields


def _shape(fields: Mapping[str, Any]) -> LlamaShape:
    if fields.get("model_type") != "llama":
        raise MemprofError(f'model_type {_short.repr(fields.get("model_type"))} is not taken; it must be "llama"')
    for name, only in ONLY.items():
        value = fields.get(name)
        if value is not None and (value != only or isinstance(value, bool) != isinstance(only, bool)):
            raise MemprofError(f"{name} {_short.repr(value)} is not taken; it must be {json.dumps(only)}")
    sizes = {name: _size(fields, name) for name in REQUIRED}
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if fields.get("head_dim") is None and hidden % heads:
        raise MemprofError(f"hidden_size {hidden} must be a multiple of num_attention_heads {heads}, or give head_dim")
    return LlamaShape(
        **sizes,
        num_key_value_heads=_size(fields, "num_key_value_heads", heads),
        head_dim=_size(fields, "head_dim", hidden // heads),
        tie_word_embeddings=_flag(fields, "tie_word_embeddings"),
        rms_norm_eps=_number(fields, "rms_norm_eps", 1e-6, 1.0),
        rope_theta=_rope_theta(fields),
    )


def _size(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= BOUNDS[name]:
        shown = "missing" if value is None else _short.repr(value)
        raise MemprofError(f"{name} is {shown}; it must be an integer from 1 to {BOUNDS[name]}")
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise MemprofError(f"{name} is {_short.repr(value)}; it must be true or false")
    return bool(value)


def _number(fields: Mapping[str, Any], name: str, default: float, most: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise MemprofError(f"{name} is {_short.repr(value)}; it must be a number above 0, at most {most:g}")
    return float(value)


def _rope_theta(fields: Mapping[str, Any]) -> float:
    """Newer configs keep it inside rope_parameters, which rope_scaling was before; there it overrules the outer one."""
    outer = _number(fields, "rope_theta", 10_000.0, MAX_THETA)
    for name in ("rope_parameters", "rope_scaling"):
        inner = fields.get(name)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise MemprofError(f"{name} is {_short.repr(inner)}; it must be an object")
        return _number(inner, "rope_theta", outer, MAX_THETA)
    return outer


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MemprofError("not a config.json; a field stands there twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise MemprofError(f"not a config.json; a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> float:
    raise MemprofError(f"not a config.json; {name} is not a number of JSON")


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) else str(error)
    return str(text).splitlines()[0] if text else type(error).__name__
