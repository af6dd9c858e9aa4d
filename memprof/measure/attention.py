"""Which attention really runs: the autograd node that the scenario's own kernels leave behind on a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memprof.kernels import KERNELS
from memprof.scenario import Scenario
from memprof.step import TORCH_DTYPE

TOKENS = 16


def attention_node(scenario: Scenario, device: torch.device) -> str | None:
    """The name of the node, by a call with the scenario's heads and dtype and a few tokens; None if none is there."""
    shape = scenario.shape

    def some(heads: int) -> Tensor:
        size = (1, TOKENS, heads, shape.head_dim)
        return torch.zeros(size, dtype=TORCH_DTYPE[scenario.dtype], device=device, requires_grad=True)

    keys, values = some(shape.num_key_value_heads), some(shape.num_key_value_heads)
    out = KERNELS[scenario.kernels].attention(some(shape.num_attention_heads), keys, values)
    waiting: list[Any] = [out.grad_fn]
    while waiting:
        node = waiting.pop(0)
        if "Attention" in node.name():
            return str(node.name())
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return None
