"""Which weights an optimizer updates together: groups as the method's formula counts them. No method."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from memprof.method import Footprint, Weight, groups


class Costs(Protocol):
    """What a bound method says of its updates."""

    def formula(self, weight: Weight) -> Footprint: ...
    def update_kind(self, weight: Weight) -> Hashable: ...
    def scratch_limit(self, weights: Iterable[Weight]) -> int: ...


class Batches:
    """Weights of one kind, as many as have scratch within the limit."""

    def __init__(self, method: Costs, weight_of: Mapping[Any, Weight]) -> None:
        self.limit = method.scratch_limit(weight_of.values())
        self._scratch_of = {p: method.formula(weight).transient for p, weight in weight_of.items()}
        self._kind_of = {p: method.update_kind(weight) for p, weight in weight_of.items()}

    def of(self, params: Sequence[Tensor]) -> list[list[Tensor]]:
        return groups(params, self._scratch_of.__getitem__, self.limit, self._kind_of.__getitem__)
