"""A dataclass of plain figures out of JSON that anybody may have written, each figure of the kind its field says."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from memprof import schema

T = TypeVar("T")


def read(kind: type[T], data: object) -> T:
    """A `kind` with the fields of `data`; `ValueError` where one is unknown, missing or of another kind.

    A `broken` method of `kind` has the last word: it says which of its own sums does not hold.
    """
    name = kind.__name__.lower()
    if not isinstance(data, Mapping):
        raise ValueError(f"the {name} must be a table")
    hints = _hints(typing.cast(Any, kind))
    if unknown := set(data) - set(hints):
        raise ValueError(f"unknown keys {sorted(unknown)} of the {name}")
    values = {key: _value(hints[key], value, f"{name}.{key}") for key, value in data.items()}
    try:
        made = kind(**values)
    except TypeError:
        raise ValueError(f"the {name} lacks figures") from None
    broken = getattr(made, "broken", lambda: None)()
    if broken:
        raise ValueError(broken)
    return made


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {spec.name: hints[spec.name] for spec in dataclasses.fields(kind)}


def _value(hint: Any, value: object, name: str) -> Any:
    if isinstance(hint, types.UnionType):
        return None if value is None else _value(typing.get_args(hint)[0], value, name)
    if dataclasses.is_dataclass(hint):
        return read(typing.cast(type[Any], hint), value)
    if typing.get_origin(hint) is dict:
        _, inside = typing.get_args(hint)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{name} is not what the schema says")
        return {key: _value(inside, each, name) for key, each in value.items()}
    if typing.get_origin(hint) is tuple:
        inside, _ = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} is not what the schema says")
        return tuple(_value(inside, each, name) for each in value)
    if not _KINDS[hint](value):
        raise ValueError(f"{name} is not what the schema says")
    return value


_KINDS: dict[Any, Callable[[object], bool]] = {
    int: schema.is_bytes,
    float: schema.is_number,
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
}
