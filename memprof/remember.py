"""Meta kernels, asked once: what an operator answered to arguments of some shapes, it answers to the next ones too.

torch works out the shapes of most operators in Python, at some 100 microseconds a call, and the layers of a model ask
the same questions over and over. Remembered are operators whose results are new tensors, and those that write into
their arguments and leave the shapes alone, on plain meta tensors; views, resizes and everything else run as they are.
What a ledger sees is the same to the byte: a test holds traces with and without it together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_TENSOR = (Tensor, nn.Parameter)
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_NEW, _WRITES, _OTHER = "new", "writes", "other"
Answer = Callable[[tuple[Any, ...]], Any]
"""From a call's arguments to its result"""


class _Unknown(Exception):
    """An argument of which shape, strides and dtype are not the whole story."""


class MetaKernels:
    """Operators on meta tensors through `run`, each worked out once for each kind of arguments."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Answer] = {}
        self._kinds: dict[Any, str] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`func(*args, **kwargs)`"""
        kind = self._kinds.get(func) or self._kinds.setdefault(func, _kind(func))
        if kind == _OTHER:
            return func(*args, **kwargs)
        try:
            described = _describe_all(args)
            key = (func, described, tuple(kwargs), _describe_all(kwargs.values()))
        except _Unknown:
            return func(*args, **kwargs)
        answer = self._answers.get(key)
        if answer is not None:
            return answer(args)
        out = func(*args, **kwargs)
        learned = _new(out, (*args, *kwargs.values())) if kind == _NEW else _written(out, args, described)
        if learned is not None:
            self._answers[key] = learned
        return out


def _kind(func: Any) -> str:
    """By the operator's schema: makes new tensors, writes into its arguments, or another thing (a view, an `out=`)."""
    schema = func._schema
    aliases = [argument.alias_info for argument in schema.arguments if argument.alias_info is not None]
    if torch.Tag.inplace_view in func.tags or any(argument.is_out for argument in schema.arguments):
        return _OTHER
    if aliases:
        writes = schema.name.endswith("_") and len(schema.returns) <= 1 and all(alias.is_write for alias in aliases)
        return _WRITES if writes else _OTHER
    fresh = schema.returns and all(result.alias_info is None for result in schema.returns)
    return _NEW if fresh else _OTHER


def _describe_all(values: Iterable[Any]) -> tuple[Hashable, ...]:
    return tuple([_describe(value) for value in values])


def _describe(value: Any) -> Hashable:
    if type(value) in _TENSOR:
        if not value.is_meta or value.layout is not torch.strided:
            raise _Unknown
        return value.shape, value.stride(), value.dtype
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, list | tuple):
        return _describe_all(value)
    raise _Unknown


def _new(out: Any, given: Iterable[Any]) -> Answer | None:
    """Makes the same new tensors again; None where a result is not plainly new (some share an argument's storage)."""
    if not isinstance(out, Tensor | list | tuple):
        return None
    taken = _storages(given)
    makers = []
    for part in [out] if isinstance(out, Tensor) else out:
        make = _maker(part, taken)
        if make is None:
            return None
        taken |= _storages([part])
        makers.append(make)
    if isinstance(out, Tensor):
        only = makers[0]
        return lambda _: only()
    together: Any = type(out)
    return lambda _: together([make() for make in makers])


def _maker(part: Any, taken: set[int]) -> Callable[[], Any] | None:
    if isinstance(part, int | None):
        return lambda: part
    if type(part) is not Tensor or not part.is_meta or part.storage_offset() or part.is_quantized:
        return None
    shape, stride, dtype, storage = part.shape, part.stride(), part.dtype, part.untyped_storage()

    def make() -> Tensor:
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    same = storage._cdata not in taken and make().untyped_storage().nbytes() == storage.nbytes()
    return make if same else None


def _written(out: Any, args: tuple[Any, ...], before: tuple[Hashable, ...]) -> Answer | None:
    """Hands back the first argument, or nothing, where the arguments kept their shapes."""
    if _describe_all(args) != before:
        return None
    if out is None:
        return lambda _: None
    return (lambda given: given[0]) if out is args[0] else None


def _storages(values: Iterable[Any]) -> set[int]:
    found: set[int] = set()
    for value in values:
        if isinstance(value, Tensor):
            found.add(value.untyped_storage()._cdata)
        elif isinstance(value, list | tuple):
            found |= _storages(value)
    return found
