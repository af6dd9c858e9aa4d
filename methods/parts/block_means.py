"""One second moment per block of a weight: the mean of g^2 over each, and a division by the roots.

Shapes: a weight of n elements has B blocks of n / B elements each, one after the other, seen as (B, n / B).
"""

from __future__ import annotations

import torch
from torch import Tensor


def as_blocks(tensor: Tensor, blocks: int) -> Tensor:
    """(B, n / B), one block a row; a matrix of one block a row already, and a norm, as it is."""
    return tensor if tensor.ndim < 2 or tensor.shape[:-1] == (blocks,) else tensor.view(blocks, -1)


def block_norm(grad: Tensor, blocks: int) -> Tensor:
    """The norm of every block, (B, 1), or () for a norm: sqrt(n / B * mean g^2) without a g^2."""
    rows = grad.ndim > 1
    norm: Tensor = torch.linalg.vector_norm(as_blocks(grad, blocks), dim=1 if rows else None, keepdim=rows)
    return norm


def add_mean_squares_(vmeans: list[Tensor], grads: list[Tensor], weight: float) -> None:
    """vmean += weight * mean of g^2 over each block, for weights of one shape and partition."""
    blocks, size = vmeans[0].numel(), grads[0].numel()
    norms = torch._foreach_norm(grads) if vmeans[0].ndim == 0 else [block_norm(grad, blocks) for grad in grads]
    torch._foreach_addcmul_(vmeans, norms, norms, value=weight * blocks / size)


def divide_(ps: list[Tensor], ms: list[Tensor], roots_GB: Tensor, value: float, together: bool) -> None:
    """p += value * m / root, with a root for each block; `together` in one call, with a root for each element."""
    blocks = roots_GB.shape[1]
    if together:
        dense = roots_GB.view(-1, 1).expand(-1, ps[0].numel() // blocks).contiguous()
        torch._foreach_addcdiv_(ps, ms, dense.view(len(ps), *ps[0].shape).unbind(), value=value)
        return
    for p, m, roots_B in zip(ps, ms, roots_GB, strict=True):
        rows = p.view(blocks, -1), m.view(blocks, -1)
        rows[0].addcdiv_(rows[1], roots_B.unsqueeze(-1), value=value)
