"""The top singular subspace of a gradient: what GaLore and the methods after it project on. No method of its own.

Shapes: a gradient is (M, N); S and L are its shorter and longer side; R is the rank.

Where galore_torch takes the SVD of the gradient, here are the eigenvectors of its Gram matrix on the shorter side: the
same subspace at a fraction of the cost. A Gram matrix squares the condition number, so in fp32 the weak end of a wide
basis is rougher than an SVD's: where the singular values fall to 1 % of the largest, Adam's first update is 1e-2 off
the one by fp64 (512 x 1376 at rank 128) or 3e-2 (1024 x 2736 at 256), an fp32 SVD's 3e-4 or 7e-4; at rank 8, 4e-6. The
energy captured is the same to 1e-6. Measured on two CPU threads over the matrices of a layer, the refresh is 4.3 (60m)
to 5.3 times (350m) as fast as galore_torch's. A Gram matrix in fp64 would be as exact as an SVD, at 2.3 to 2.9 times;
sixteen vectors more and their rotation to Ritz vectors ten times as exact as now, at 3.6 to 4.5 times.

The singular vectors of the other side are the orthonormal factor of the gradient times those. The sign of a singular
vector is arbitrary and old moments are re-read in the new basis, so each vector's largest entry is made positive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memprof.method import Weight


def is_tall(shape: Sequence[int]) -> bool:
    return shape[0] >= shape[1]


def basis_shape(shape: Sequence[int], rank: int) -> tuple[int, int]:
    """(R, N) for a tall or square weight, (M, R) for a wide one."""
    return (rank, shape[1]) if is_tall(shape) else (shape[0], rank)


def low_rank_shape(shape: Sequence[int], rank: int) -> tuple[int, int]:
    """(M, R) for a tall or square weight, (R, N) for a wide one."""
    return (shape[0], rank) if is_tall(shape) else (rank, shape[1])


def wide_itemsize(itemsize: int) -> int:
    """Bytes of an element of what is computed in fp32, and in fp64 for fp64 weights: the Gram matrix, say."""
    return max(4, itemsize)


def widened(grad: Tensor) -> Tensor:
    return grad.to(torch.promote_types(grad.dtype, torch.float32))


def gram(grad_MN: Tensor) -> Tensor:
    """G^T G of a tall gradient, G G^T of a wide one: (S, S), fp32 at least."""
    wide = widened(grad_MN)
    product: Tensor = wide.T @ wide if is_tall(wide.shape) else wide @ wide.T
    return product


def with_sign_rule(vectors_SR: Tensor) -> Tensor:
    """The columns in place, each with the sign that makes its entry of largest magnitude positive."""
    largest_1R = vectors_SR.abs().argmax(dim=0, keepdim=True)
    signed: Tensor = vectors_SR.mul_(vectors_SR.gather(0, largest_1R).sign_())
    return signed


def top_subspace(grad_MN: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The top `rank` singular vectors of the shorter side, strongest first, as a basis; and whether they are valid.

    eigh raises on NaN and infinity, so such entries of the Gram matrix become zeros and the flag, a 0-d bool on the
    gradient's device, is False. Each large tensor is dropped as soon as the next exists: `refresh_bytes` counts them.
    """
    gram_SS = gram(grad_MN)
    finite = gram_SS.diagonal().sum().isfinite()  # the squared norm: no entry of G or of its Gram can hide from it
    vectors_SS = torch.linalg.eigh(gram_SS.nan_to_num_(0.0, 0.0, 0.0)).eigenvectors
    del gram_SS
    top_SR = vectors_SS[:, -rank:].flip(1)
    del vectors_SS
    with_sign_rule(top_SR)
    return (top_SR.T if is_tall(grad_MN.shape) else top_SR), finite


def longer_side(grad_MN: Tensor, short: Tensor) -> Tensor:
    """The singular vectors of the longer side that belong to those of the shorter one, as a basis."""
    tall = is_tall(grad_MN.shape)
    wide = widened(grad_MN)
    long_LR: Tensor = wide @ short.T if tall else wide.T @ short
    del wide
    long_LR = torch.linalg.qr(long_LR).Q
    with_sign_rule(long_LR)
    return long_LR if tall else long_LR.T


def project(grad_MN: Tensor, basis: Tensor, out: Tensor) -> Tensor:
    """The gradient's coordinates in the basis of its shorter side, into `out`."""
    return torch.mm(grad_MN, basis.T, out=out) if is_tall(grad_MN.shape) else torch.mm(basis.T, grad_MN, out=out)


def add_back_(weight_MN: Tensor, basis: Tensor, low_rank: Tensor, beta: float, alpha: float) -> None:
    """weight <- beta * weight + alpha * (low_rank taken back to full size), without a full-size temporary."""
    left, right = (low_rank, basis) if is_tall(weight_MN.shape) else (basis, low_rank)
    weight_MN.addmm_(left, right, beta=beta, alpha=alpha)


def refresh_bytes(weight: Weight, rank: int) -> int:
    """The worst of three instants of `top_subspace`, w = 4 bytes (8 for fp64):

    copy of G (M, N) w, for bf16 and fp16 only + Gram (S, S) w
    Gram (S, S) w + eigenvalues (S,) w + eigenvectors (S, S) w + finite () bool
    top vectors (S, R) w + their magnitudes (S, R) w + argmax (R,) int64 + finite () bool

    LAPACK's and cuSOLVER's workspace inside eigh is not in it.
    """
    side, w = min(weight.shape), wide_itemsize(weight.itemsize)
    copy = copy_bytes(weight)
    return max(copy + w * side**2, w * (2 * side**2 + side) + 1, 2 * w * side * rank + 8 * rank + 1)


def copy_bytes(weight: Weight) -> int:
    """The gradient's copy for its Gram matrix, where it is not wide enough itself."""
    wide = wide_itemsize(weight.itemsize)
    return wide * weight.numel if weight.itemsize < wide else 0
