"""A gradient for a weight that can have none of its own: one stored in integers, or one whose gradient is smaller.

Autograd gives a leaf a gradient of the leaf's own shape and dtype. An anchor is such a leaf with one stored element:
`layer.anchor.grad` is where the layer's backward leaves what the optimizer shall read, of any shape it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def anchor(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """A parameter of `shape` that stores one element (itemsize bytes)."""
    return nn.Parameter(torch.zeros((), dtype=dtype, device=device).expand(*shape))


def is_anchor(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and not any(tensor.stride())


class AnchoredLinear(nn.Module):
    """A linear layer (out, in) whose gradient lands on `anchor`; what it computes with is its subclass's affair.

    The anchor carries no value: it is neither stored in a state dict nor loaded from one.
    """

    def __init__(self, in_features: int, out_features: int, gradient: nn.Parameter) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.anchor = gradient

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}anchor")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        before = dict(self._parameters)
        del self._parameters["anchor"]
        try:
            super()._load_from_state_dict(*args, **kwargs)
        finally:  # in the order of before, by which an optimizer's state finds its parameters
            loaded = dict(self._parameters)
            self._parameters.clear()
            self._parameters.update({key: loaded.get(key, parameter) for key, parameter in before.items()})
