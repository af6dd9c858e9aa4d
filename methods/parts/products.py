"""Matrix products with a factor folded in."""

from __future__ import annotations

from torch import Tensor


def scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left @ right, as one kernel and without a second tensor of that size."""
    return left.new_empty(left.shape[0], right.shape[1]).addmm_(left, right, beta=0, alpha=scale)
