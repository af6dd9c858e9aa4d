"""What tests of projected gradients share: gradients with a clear subspace, when it is taken anew, and at what cost."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fidelity.problem import gradient
from memprof.method import Footprint, Method, Weight, named_weights
from memprof.methods.parts.projection import top_subspace


def set_gradients(model: nn.Module, seed: int) -> None:
    for i, p in enumerate(model.parameters()):
        p.grad = gradient(p.shape, 1000 * seed + i, p.dtype)


def footprints(method: Method, model: nn.Module) -> list[tuple[Weight, nn.Parameter, Footprint]]:
    """Every weight of a model beside what it costs under the bound method."""
    bound = method.bind(weight for weight, _ in named_weights(model))
    return [(weight, p, bound.formula(weight)) for weight, p in named_weights(model)]


def refreshed_steps(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: Callable[[int], None], steps: int
) -> list[int]:
    """The steps in which `module` takes a subspace."""
    seen: set[int] = set()
    now = [0]

    def watched(grad: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        seen.add(now[0])
        return top_subspace(grad, rank)

    monkeypatch.setattr(module, "top_subspace", watched)
    for now[0] in range(steps):
        step(now[0])
    return sorted(seen)


class Calls(TorchDispatchMode):
    """Counts aten calls, views left out; a fused or foreach call is one."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += not func.is_view and func.namespace == "aten"
        return func(*args, **(kwargs or {}))


class Launches(TorchDispatchMode):
    """Counts aten calls that compute: no views, and a foreach call as one only if no pair of its tensors broadcasts."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.namespace == "aten":
            lists = [arg for arg in args if isinstance(arg, list) and isinstance((*arg, None)[0], Tensor)]
            slow = any(len({t.shape for t in tensors}) > 1 for tensors in zip(*lists, strict=True))
            self.seen += len(lists[0]) if slow else 1
        return func(*args, **(kwargs or {}))
