"""The lazy refresh: a subspace that hardly turns is computed ever more rarely. No method, but what Q-GaLore and
GaLore-mini share.

Zhang et al. 2024, "Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients",
arXiv:2407.08296, section 3.3; the rule is that of the authors' q_galore_torch 1.0. Every weight has a gap of its own
and refreshes in the steps, counted from 0, that its gap divides. Each refresh notes the cosine of the old and the new
first basis vector; once the last `queue_size` of them average `cos_threshold`, every refresh multiplies the gap by
`gamma`, without a cap. Their vectors have the sign that LAPACK gave them, so a subspace that stays may score -1 there;
here each vector's largest entry is positive.

Data decides the schedule, so the host must read one number, and does so once a refresh of a weight, right after an
eigendecomposition that made it wait anyway. On meta tensors there is nothing to read, and the gap stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from memprof.methods.parts.projection import is_tall

State = dict[str, Any]


class HasLazySettings(Protocol):
    """A method whose fields say how lazy it is."""

    @property
    def update_gap(self) -> int: ...
    @property
    def cos_threshold(self) -> float: ...
    @property
    def gamma(self) -> float: ...
    @property
    def queue_size(self) -> int: ...


def first_vector(basis: Tensor, shape: Sequence[int]) -> Tensor:
    """The strongest singular vector (S,) of a basis: its first row for a tall weight, its first column for a wide."""
    return basis.select(0 if is_tall(shape) else 1, 0)


def similarity(old_S: Tensor, new_S: Tensor) -> float | None:
    """The cosine of two vectors: the one host read. None on meta tensors."""
    if new_S.is_meta:
        return None
    return float(torch.nn.functional.cosine_similarity(old_S.to(new_S.dtype), new_S, dim=0))


@dataclass(frozen=True, slots=True)
class LazyRefresh:
    """When a weight refreshes. Gap and cosines are numbers in its state, so that a stored run goes on the same."""

    update_gap: int
    cos_threshold: float
    gamma: float
    queue_size: int

    @classmethod
    def of(cls, method: HasLazySettings) -> LazyRefresh:
        return cls(method.update_gap, method.cos_threshold, method.gamma, method.queue_size)

    def start(self) -> State:
        """What a weight's state begins with."""
        return {"gap": self.update_gap, "cosines": []}

    def is_due(self, state: State, step: int) -> bool:
        return bool(step % state["gap"] == 0)

    def learn(self, state: State, old_S: Tensor, new_S: Tensor) -> None:
        """Note how far the first basis vector has turned, and let the gap grow if that is not far."""
        cosine = similarity(old_S, new_S)
        if cosine is not None:
            state["cosines"] = [*state["cosines"], cosine][-self.queue_size :]
            state["gap"] = self.learned_gap(state["gap"], state["cosines"])

    def learned_gap(self, gap: int, cosines: Sequence[float]) -> int:
        """gamma times the gap once the queue is full and averages the threshold."""
        full = len(cosines) == self.queue_size
        return int(gap * self.gamma) if full and sum(cosines) / len(cosines) >= self.cos_threshold else gap
