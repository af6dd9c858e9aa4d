"""AdamW within the subspace: gradients in the parameters' place against the same kernel with places of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memprof.methods.parts.galore_inner import AdamWInner
from memprof.methods.parts.galore_optimizer import like_views
from memprof.optimizer import Group, fused_adamw_, step_tensor

SHAPES = [(3, 7), (5, 4), (300, 301), (1, 1), (256, 512)]
"""some that begin off a multiple of four elements, and some of more elements than a kernel's block takes (65,536)"""
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def drawn(device: str, dtype: torch.dtype) -> list[Tensor]:
    """Pieces of one buffer, as the optimizer has them."""
    flat = torch.randn(sum(m * n for m, n in SHAPES), generator=torch.Generator().manual_seed(3))
    return like_views(flat.to(device, dtype), SHAPES)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_update_in_its_gradients_place_is_the_one_beside_it(device: str, dtype: torch.dtype) -> None:
    """To the bit. The oracle updates parameters that are zero and does not decay them."""
    group: Group = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 0.0, "weight_decay": 0.1, "step": 1}
    inner, lows, grads = AdamWInner(), drawn(device, dtype), drawn(device, dtype)
    states, apart = ([inner.new_state(low, low.shape) for low in lows] for _ in range(2))
    updates, _ = inner.update(states, [lows], group)
    expected = [torch.zeros_like(grad) for grad in grads]
    averages, squares = ([state[key] for state in apart] for key in ("exp_avg", "exp_avg_sq"))
    steps = [step_tensor(2, grads[0].device)] * len(grads)
    fused_adamw_(expected, grads, averages, squares, steps, lr=1.0, betas=(0.8, 0.95), eps=0.0, weight_decay=0.0)
    assert all(map(torch.equal, updates, expected))
    assert all(torch.equal(one[key], other[key]) for one, other in zip(states, apart, strict=True) for key in other)
    assert all(update.abs().min() > 0 for update in updates), "every element had its update"
