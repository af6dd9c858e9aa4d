"""A method's hyperparameters as data: default, help, bounds; and the check that a value keeps them."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from memprof.errors import MemprofError, shown

T = TypeVar("T")
_BOUNDS = {"least": operator.ge, "above": operator.gt, "most": operator.le, "below": operator.lt}
MAX_INTEGER = 2**63


def setting(default: T, help: str, *, least: float | None = None, above: float | None = None,
               most: float | None = None, below: float | None = None, choices: tuple[str | int, ...] = (),
               papers: str = "") -> T:  # fmt: skip
    """A hyperparameter of a method: its default, one line of help, the values it may take and those that papers use."""
    bounds = {"least": least, "above": above, "most": most, "below": below}
    metadata = {
        "help": help,
        "papers": papers,
        "choices": choices,
        "bounds": {k: v for k, v in bounds.items() if v is not None},
    }
    return dataclasses.field(default=default, metadata=metadata)


def as_in(papers: str, method: type[Any], name: str) -> Any:
    """A hyperparameter of a base class as it is there, beside the values that other papers use."""
    (spec,) = (spec for spec in dataclasses.fields(method) if spec.name == name)
    return dataclasses.field(default=spec.default, metadata={**spec.metadata, "papers": papers})


def check_setting(method: str, spec: dataclasses.Field[Any], value: object, hint: Any) -> None:
    """Raise unless a hyperparameter has its type, is finite and lies in its bounds."""
    if not _has_type(value, hint):
        raise MemprofError(f"{method}: {spec.name}={shown(repr(value))} does not fit; it must be {allowed(spec)}")
    values = value if isinstance(value, tuple) else (value,)
    for part in values:
        if isinstance(part, bool) or not isinstance(part, int | float):
            continue
        finite = abs(part) < MAX_INTEGER if isinstance(part, int) else math.isfinite(part)
        if not finite or not _within(part, spec.metadata.get("bounds", {})):
            raise MemprofError(
                f"{method}: {spec.name}={shown(repr(value))} is out of range; it must be {allowed(spec)}"
            )
    choices = spec.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise MemprofError(
            f"{method}: {spec.name}={shown(repr(value))} is unknown; choose from {', '.join(map(str, choices))}"
        )


def _has_type(value: object, hint: Any) -> bool:
    """Whether a value is of a hyperparameter's type; an integer is a number too, and a type not known here is taken."""
    if is_optional(hint):
        return value is None or _has_type(value, typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_has_type, value, parts))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _within(value: float, bounds: dict[str, float]) -> bool:
    return all(_BOUNDS[name](value, bound) for name, bound in bounds.items())


def allowed(spec: dataclasses.Field[Any]) -> str:
    """What a hyperparameter may be, in words: "a number above 0, below 1"."""
    if spec.metadata.get("choices"):
        none = ", none" if "None" in str(spec.type) else ""
        return "one of " + ", ".join(map(str, spec.metadata["choices"])) + none
    words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
    bounds = [f"{words[name]} {bound:g}" for name, bound in spec.metadata.get("bounds", {}).items()]
    kind = str(spec.type)
    if kind.startswith("bool"):
        return "true or false"
    number = "an integer" if kind.startswith("int") else "a finite number"
    if kind.startswith("tuple"):
        parts: tuple[float, ...] = spec.default  # type: ignore[assignment]
        number += f" each, as {'/'.join(map(str, parts))}"
    return ", ".join([number, *bounds])


@functools.cache
def field_types(method: type[Any]) -> Mapping[str, Any]:
    """The type of each hyperparameter, with annotations resolved. Every method that is made asks."""
    hints = typing.get_type_hints(method)
    return types.MappingProxyType({spec.name: hints[spec.name] for spec in dataclasses.fields(method)})


def is_optional(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in typing.get_args(hint)
