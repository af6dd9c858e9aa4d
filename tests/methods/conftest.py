"""What tests of several methods ask for: `launches`, how many operations a step gives a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Lists = list[Sequence[Tensor]]
MIXED = {"_foreach_copy_"}
"""whose lists may differ in dtype"""
NORMS = (1, 2, math.inf)


class Launches(TorchDispatchMode):
    """Counts aten calls, views left out. A foreach or fused call is one where CUDA's fast path takes it, and as many
    as it has tensors where that does not; on every device, meta included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func.namespace == "aten" and not func.is_view:
            name = func._schema.name.removeprefix("aten::")
            self.calls[name] = self.calls.get(name, 0) + calls_of(name, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def calls_of(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    lists = [part for part in (*args, *kwargs.values()) if is_tensor_list(part)]
    if not name.startswith(("_foreach_", "_fused_")) or not lists:
        return 1
    return 1 if takes_fast_path(name, lists, args) else len(lists[0])


def is_tensor_list(part: object) -> bool:
    return isinstance(part, list | tuple) and bool(part) and all(isinstance(item, Tensor) for item in part)


def takes_fast_path(name: str, lists: Lists, args: Sequence[Any]) -> bool:
    """The rules of ATen/native/ForeachUtils.h: one device and dtype, dense, each row of the lists of one layout."""
    if name.startswith("_fused_"):
        lists = [each for each in lists if each[0].ndim]  # the steps are apart
    if name == "_foreach_norm" and len(args) > 1 and args[1] not in NORMS:
        return False
    return (
        one_of_a_kind(tensor.device for each in lists for tensor in each)
        and (name in MIXED or one_of_a_kind(tensor.dtype for each in lists for tensor in each))
        and all(one_of_a_kind(tensor.dtype for tensor in each) for each in lists)
        and all(dense(tensor) for each in lists for tensor in each)
        and all(one_of_a_kind(map(layout, row)) for row in zip(*lists, strict=True))
    )


def one_of_a_kind(items: Iterable[object]) -> bool:
    return len(set(items)) <= 1


def layout(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes, and strides where a dimension is longer than one."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return tuple(tensor.shape), tuple(0 if size == 1 else stride for size, stride in strides)


def dense(tensor: Tensor) -> bool:
    """Non-overlapping and dense: some order of its dimensions makes it contiguous."""
    order = sorted(range(tensor.ndim), key=lambda dim: (tensor.stride(dim), tensor.shape[dim]), reverse=True)
    return bool(tensor.permute(order).is_contiguous())


@pytest.fixture
def launches() -> Callable[[Callable[[], object]], int]:
    """`launches(optimizer.step)`: how many operations that is."""

    def count(work: Callable[[], object]) -> int:
        seen = Launches()
        with seen:
            work()
        return seen.total

    return count
