"""One second moment per block: keeping it and dividing by it, for many weights in a few calls. No method, but
GaLore-mini's arithmetic.

A weight's second moments are `vmean`, (B, 1), or () of a vector: one for each of its B blocks of consecutive elements.
What they divide has blocks of its own, and tensors whose blocks are of one size are divided together, because a
division that broadcasts takes no list of tensors in one launch.
Shapes: a matrix's update is a product of two factors, (M, R) and (R, N). To divide rows of the product is to divide
those of its left factor, and to divide the R coordinates is to divide the left factor's columns: nothing of full size
is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from memprof.methods.parts.block_means import as_blocks, block_norm

ROWS, COLUMNS, SEEN, NONE = "rows", "columns", "seen", "none"
"""what divisors do: divide the blocks of a factor; divide its columns; divide its columns by what each sees of the
divisors of its blocks; or wait for their user"""


@dataclass(frozen=True, slots=True)
class Divided:
    """A tensor to be divided, and the second moments that do it."""

    kind: str
    factor: Tensor
    vmean: Tensor

    @property
    def blocks(self) -> int:
        return self.vmean.numel()

    @property
    def alike(self) -> tuple[str, int]:
        """Tensors that have this in common are divided together."""
        return self.kind, self.factor.numel() // self.blocks


def update_vmeans_(vmeans: list[Tensor], grads: list[Tensor], beta2: float) -> None:
    """vmean = beta2 * vmean + (1 - beta2) * mean of g^2 over each block: a norm a matrix, one call for all vectors."""
    pairs = list(zip(grads, vmeans, strict=True))
    vectors = [grad for grad in grads if grad.ndim < 2]
    of_vectors = iter(torch._foreach_norm(vectors) if vectors else ())
    norms = [next(of_vectors) if grad.ndim < 2 else block_norm(grad, vmean.numel()) for grad, vmean in pairs]
    torch._foreach_mul_(vmeans, beta2)
    shares = [(1 - beta2) * vmean.numel() / grad.numel() for grad, vmean in pairs]
    torch._foreach_addcmul_(vmeans, norms, norms, shares)


def divide(items: Sequence[Divided], step: int, beta2: float, eps: float) -> list[Tensor]:
    """Of each item its factor, divided, as a copy; of kind "none" the divisors D = sqrt(vmean / (1 - beta2^t)) + eps.

    "seen": column r of a factor P (M, R) is divided by sqrt(sum_i P_ir^2 D_i^2), the root mean square of the rows'
    divisors where its squares sum to 1.
    """
    order = sorted(range(len(items)), key=lambda i: items[i].alike)
    roots = torch.cat([items[i].vmean.view(-1, 1) for i in order])
    roots.sqrt_().div_((1 - beta2**step) ** 0.5).add_(eps)
    pieces = dict(zip(order, roots.split([items[i].blocks for i in order]), strict=True))
    done: dict[int, Tensor] = {}
    start = 0
    for (kind, width), same in groupby(order, key=lambda i: items[i].alike):
        chosen = list(same)
        end = start + sum(items[i].blocks for i in chosen)
        if kind == NONE:
            done.update((i, pieces[i]) for i in chosen)
        elif kind == COLUMNS:
            done.update((i, items[i].factor / pieces[i].T) for i in chosen)
        else:
            scaled = _scaled([items[i].factor for i in chosen], roots[start:end], width, times=kind == SEEN)
            done.update(zip(chosen, scaled, strict=True))
        start = end
    _see([items[i].factor for i in order if items[i].kind == SEEN], [done[i] for i in order if items[i].kind == SEEN])
    return [done[i] for i in range(len(items))]


def _scaled(factors: list[Tensor], roots: Tensor, width: int, times: bool) -> list[Tensor]:
    """Copies of the factors, their blocks of `width` elements over (or times) the roots."""
    stacked = torch.cat([factor.view(-1, width) for factor in factors])
    if times:
        stacked.mul_(roots)
    else:
        stacked.div_(roots)
    parts = stacked.split([factor.numel() // width for factor in factors])
    return [part.view(factor.shape) for part, factor in zip(parts, factors, strict=True)]


def _see(factors: list[Tensor], weighted: list[Tensor]) -> None:
    """Each factor over the norms of the columns of its weighted copy, into that copy."""
    norms = [torch.linalg.vector_norm(part, dim=0) for part in weighted]
    for factor, part, norm in zip(factors, weighted, norms, strict=True):
        torch.div(factor, norm, out=part)


def take_off_(params: list[Tensor], moments: list[Tensor], parts: list[Tensor], lr: float, keep: float) -> None:
    """Adam-mini's update, with what `divide` made: of vectors their moments, of matrices, which decay, the divisors."""
    triples = list(zip(params, moments, parts, strict=True))
    matrices, vectors = [t for t in triples if t[0].ndim > 1], [t for t in triples if t[0].ndim < 2]
    if matrices and keep != 1:
        torch._foreach_mul_([p for p, _, _ in matrices], keep)
    for p, moment, root in matrices:
        as_blocks(p, root.numel()).addcdiv_(as_blocks(moment, root.numel()), root, value=-lr)
    if vectors:
        torch._foreach_add_([p for p, _, _ in vectors], [part for _, _, part in vectors], alpha=-lr)
