"""What tests of layers with thin factors share: a model of two layers, and bytes that stand in a weight's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memprof.method import Weight


class Pair(nn.Module):
    """Two layers under LLaMA's names, in fp64, with different long sides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj = nn.Linear(7, 12, bias=False, dtype=torch.float64)
        self.down_proj = nn.Linear(12, 5, bias=True, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.tanh(self.q_proj(x))).square().mean()  # type: ignore[no-any-return]


def size(tensors: list[Tensor | None]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors if t is not None)


def bytes_of(model: nn.Module, optimizer: torch.optim.Optimizer, weight: Weight) -> tuple[int, int, int]:
    """Parameter, gradient and state bytes of everything that stands in the place of one plain weight."""
    owner = weight.name.removesuffix("weight")
    params = [p for name, p in model.named_parameters() if name.startswith(owner)]
    states = [t for p in params for t in optimizer.state.get(p, {}).values()]
    return size(list(params)), size([p.grad for p in params]), size(states)


def saved_bytes(model: nn.Module) -> int:
    """Bytes that autograd saved in one forward, parameters aside, each storage once."""
    params = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in params:
            saved[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no address is used twice
        return tensor

    ids = torch.zeros(2, 16, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(ids, ids)
    return size(list(saved.values()))
