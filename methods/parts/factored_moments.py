"""Adafactor's arithmetic: a matrix's second moment as one number per row and one per column, and the clipped update.

First for a weight alone, with the update as a tensor of its own; then for G weights of one shape together, with one
scratch, in fp32 (fp64 for fp64 weights). A group's "step" counts the step that is being made.
Shapes: a weight is (O, I), out x in; a norm is (D,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FP32_BYTES = 4
SCALARS = 2
"""0-d tensors alive while an update is scaled: the step size and the clipping"""


def add_mean_square_(moment: Tensor, grad: Tensor, dim: int, weight: float) -> None:
    """moment += weight * mean of grad^2 over `dim`: through the norm, so that no grad^2 is ever stored."""
    norm = torch.linalg.vector_norm(grad, dim=dim, dtype=moment.dtype)
    moment.addcmul_(norm, norm, value=weight / grad.shape[dim])


def factored_update(grad_OI: Tensor, row_O: Tensor, col_I: Tensor) -> Tensor:
    """grad / sqrt(V) in fp32, where V = row col^T / mean(row) is the paper's rank-one second moment."""
    factor_O1 = (row_O / row_O.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    update_OI = grad_OI.to(row_O.dtype, copy=True).mul_(factor_O1)  # one dtype an operation: a CPU copies else
    del factor_O1  # so that the two factors never stand beside the update together
    return update_OI.mul_(col_I.rsqrt().unsqueeze(-2))


def clip_factor(update: Tensor, threshold: float) -> Tensor:
    """1 / max(1, RMS(update) / threshold), on the device."""
    norm: Tensor = torch.linalg.vector_norm(update)
    return norm.div_(threshold * update.numel() ** 0.5).clamp_(min=1.0).reciprocal_()


def step_size(p: Tensor, lr: float, eps2: float, scale_parameter: bool) -> Tensor:
    """lr, or lr * max(eps2, RMS(p)), on the device."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    if not scale_parameter:
        return torch.full((), lr, dtype=dtype, device=p.device)
    norm: Tensor = torch.linalg.vector_norm(p, dtype=dtype)
    return norm.div_(p.numel() ** 0.5).clamp_(min=eps2).mul_(lr)


def new_state(p: Tensor, shape: Sequence[int], momentum: bool) -> dict[str, Tensor]:
    """The state of a gradient of `shape`: zeros on the device of `p`, fp32 (fp64 for an fp64 weight)."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    shapes = {"exp_avg": shape} if momentum else {}
    if len(shape) > 1:
        shapes |= {"exp_avg_sq_row": shape[:-1], "exp_avg_sq_col": (*shape[:-2], shape[-1])}
    else:
        shapes |= {"exp_avg_sq": shape}
    return {key: torch.zeros(tuple(size), dtype=dtype, device=p.device) for key, size in shapes.items()}


def decay_moments_(states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
    """moment = beta2_t * moment + (1 - beta2_t) * eps1: the terms without the gradient, for all weights at once."""
    weight = group["step"] ** group["decay_rate"]  # 1 - beta2_t
    moments = [state[key] for state in states for key in state if key.startswith("exp_avg_sq")]
    torch._foreach_mul_(moments, 1 - weight)
    torch._foreach_add_(moments, weight * group["eps1"])


def normalised(grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
    """The gradient enters the moments and is divided by their root, in fp32."""
    weight = group["step"] ** group["decay_rate"]
    if grad.ndim > 1:
        row, col = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
        add_mean_square_(row, grad, -1, weight)
        add_mean_square_(col, grad, -2, weight)
        return factored_update(grad, row, col)
    exp_avg_sq = state["exp_avg_sq"].addcmul_(grad, grad, value=weight)
    return exp_avg_sq.rsqrt().mul_(grad.to(exp_avg_sq.dtype))


def load_(scratch: Tensor, tensors: Sequence[Tensor]) -> None:
    """A copy of every tensor into its slice of the scratch."""
    torch._foreach_copy_(list(scratch.unbind()), list(tensors))


def load_product_(scratch: Tensor, grads: Sequence[Tensor], factor: Tensor | None) -> None:
    """grad * factor into the scratch, (G, ...); grad^2 where there is no factor. In one pass where nothing is cast."""
    if len(grads) == 1 and grads[0].dtype == scratch.dtype:
        torch.mul(grads[0], grads[0] if factor is None else factor[0], out=scratch[0])
    else:
        load_(scratch, grads)
        scratch.mul_(scratch if factor is None else factor)


def factors(
    squares_GOI: Tensor, rows: Sequence[Tensor], cols: Sequence[Tensor], weight: float
) -> tuple[Tensor, Tensor]:
    """Squares enter the moments, with `weight`; then 1 / sqrt(V) is the product of a (G, O) and a (G, I)."""
    row_GO = squares_GOI.sum(dim=-1)
    torch._foreach_add_(list(rows), list(row_GO.unbind()), alpha=weight / squares_GOI.shape[-1])
    torch.stack(list(rows), out=row_GO)
    row_GO.div_(row_GO.mean(dim=-1, keepdim=True)).rsqrt_()
    col_GI = squares_GOI.sum(dim=-2)
    torch._foreach_add_(list(cols), list(col_GI.unbind()), alpha=weight / squares_GOI.shape[-2])
    torch.stack(list(cols), out=col_GI)
    return row_GO, col_GI.rsqrt_()


def clip_factors(norm_G: Tensor, count: int, threshold: float) -> Tensor:
    """1 / max(1, RMS / threshold), of updates with these norms and so many elements, in the norms' place."""
    return norm_G.div_(threshold * count**0.5).clamp_(min=1.0).reciprocal_()


def raw_updates_(
    scratch: Tensor, grads: Sequence[Tensor], states: Sequence[dict[str, Tensor]], weight: float, threshold: float
) -> Tensor:
    """Gradients enter the moments; the clipped updates are the scratch times what is returned, a factor of its rows.

    The rows' factor waits, so that the norm of an update is had without another pass over it.
    """
    load_product_(scratch, grads, None)
    if grads[0].ndim < 2:
        moments = [state["exp_avg_sq"] for state in states]
        torch._foreach_add_(moments, list(scratch.unbind()), alpha=weight)
        load_product_(scratch, grads, torch.stack(moments).rsqrt_())
        norm_G: Tensor = torch.linalg.vector_norm(scratch.view(len(grads), -1), dim=-1)
        return clip_factors(norm_G, grads[0].numel(), threshold).view(-1, *[1] * grads[0].ndim)
    row, col = factors(
        scratch, [state["exp_avg_sq_row"] for state in states], [state["exp_avg_sq_col"] for state in states], weight
    )
    load_product_(scratch, grads, col.unsqueeze(-2))
    del col  # so that it never stands beside the norms
    norms = torch.linalg.vector_norm(scratch, dim=-1).mul_(row)
    norm_G = torch.linalg.vector_norm(norms.view(len(grads), -1), dim=-1)
    del norms
    clip = clip_factors(norm_G, grads[0].numel(), threshold)
    return row.mul_(clip.view(-1, *[1] * (row.ndim - 1))).unsqueeze(-1)


def move_(ps: Sequence[Tensor], scratch: Tensor, factor: Tensor, decay: float | list[Tensor]) -> None:
    """Decay, then p -= factor * scratch: in one pass where it is one weight and nothing is cast."""
    if len(ps) == 1 and ps[0].dtype == scratch.dtype:
        decay_(list(ps), decay)
        ps[0].addcmul_(scratch[0], factor[0], value=-1)
    else:
        subtract_(ps, list(scratch.mul_(factor).unbind()), None, decay)


def subtract_(ps: Sequence[Tensor], directions: list[Tensor], room: Tensor | None, decay: float | list[Tensor]) -> None:
    """Decay, then p -= direction. A weight below fp32 goes through a copy, in `room` if there is some: rounded once."""
    wide = list(ps)
    if ps[0].dtype != directions[0].dtype:
        copies = directions[0].new_empty(len(ps), *ps[0].shape) if room is None else room
        load_(copies, ps)
        wide = list(copies.unbind())
    decay_(wide, decay)
    torch._foreach_sub_(wide, directions)
    if ps[0].dtype != directions[0].dtype:
        torch._foreach_copy_(list(ps), wide)


def decay_(ps: list[Tensor], decay: float | list[Tensor]) -> None:
    """p -= decay * p, or p *= what each weight keeps."""
    if isinstance(decay, list):
        torch._foreach_mul_(ps, decay)
    elif decay:
        torch._foreach_add_(ps, ps, alpha=-decay)
