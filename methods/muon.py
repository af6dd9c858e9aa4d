"""Muon: momentum, orthogonalised by Newton-Schulz iteration, for attention and MLP matrices; Adam for the rest.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon;
follows the SingleDeviceMuonWithAuxAdam of his muon.py. A matrix steps by U V^T of its momentum's SVD U S V^T, nearly:
the quintic below takes singular values to between 0.7 and 1.2 in five steps, and is stable in bf16.
Shapes: a weight is (M, N); S and L are its shorter and longer side; G weights of one shape are updated together.

    m = momentum m + (1 - momentum) g;  u = (1 - momentum) g + momentum m (Nesterov);  X = u / |u|, lying down (S, L)
    five times: A = X X^T;  X = a X + (b A + c A A) X
    w = (1 - lr weight_decay) w - lr sqrt(max(1, M / N)) X

Where this and his code differ: his overwrites the gradient with u, takes a parameter without gradient for one of zeros,
and runs each matrix by itself; here matrices of one shape are stacked, as many as the largest weight has bytes of
scratch for, and each product of the iteration is one call for all of them. The embedding, the head and the norms take
torch's fused AdamW, which is his Adam with eps after the bias correction, as he has it. torch.optim.Muon (2.9 and
later) differs in the place of the eps of |u| alone: 1e-7 is there its least value.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, largest_nbytes
from memprof.methods.parts.batches import Batches
from memprof.optimizer import Group, MatrixOptimizer, adamw_footprint
from memprof.setting import setting

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""of X, A X and A A X: they maximise the slope at zero"""
NORM_EPS = 1e-7
ADAM_SHARE = 3e-4 / 0.02
"""of the learning rate, by the defaults of his code"""
NS_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def orthogonalised(x: Tensor, steps: int) -> Tensor:
    """Matrices (G, M, N) with their singular values taken to about one; `x` is written over.

    A tall X is not laid down: its A is X^T X, and stands on the right of it. The products are the same.
    """
    (a, b, c), tall = COEFFICIENTS, x.shape[1] > x.shape[2]
    x.div_(torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).add_(NORM_EPS))
    other = torch.empty_like(x)
    for _ in range(steps):
        gram_GSS = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        gram_GSS = torch.baddbmm(gram_GSS, gram_GSS, gram_GSS, beta=b, alpha=c)
        torch.baddbmm(x, *((x, gram_GSS) if tall else (gram_GSS, x)), beta=a, out=other)
        x, other = other, x
    return x


class MuonOptimizer(MatrixOptimizer):
    """Muon on attention and MLP matrices, Adam on the rest. state[p]: momentum_buffer; exp_avg and exp_avg_sq."""

    def __init__(self, model: nn.Module, method: Muon) -> None:
        lr = ADAM_SHARE * method.lr if method.adam_lr is None else method.adam_lr
        super().__init__(model, lr=lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.method = method
        self.batches = Batches(method, self.weight_of)
        for group in self.param_groups:
            if group["matrices"]:
                group.update(lr=method.lr, momentum=method.momentum)

    def is_due(self, step: int) -> bool:
        return False

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        torch._foreach_lerp_([self.state[p]["momentum_buffer"] for p in params], grads, 1 - group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(list(params), 1 - group["lr"] * group["weight_decay"])
        for batch in self.batches.of(params):
            self._update_batch(batch, group)

    def _update_batch(self, ps: list[Tensor], group: Group) -> None:
        """Matrices of one shape; a function of its own, so that its scratch is gone before the next."""
        update = orthogonalised(self._momenta(ps, group), self.method.ns_steps)
        if update.dtype != ps[0].dtype:
            update = update.to(ps[0].dtype)
        size = group["lr"] * max(1.0, ps[0].shape[0] / ps[0].shape[1]) ** 0.5
        torch._foreach_add_(ps, list(update.unbind()), alpha=-size)

    def _momenta(self, ps: list[Tensor], group: Group) -> Tensor:
        """What is made orthogonal, (G, M, N): computed in the weights' precision, then rounded to the iteration's."""
        momenta = [self.state[p]["momentum_buffer"] for p in ps]
        stacked = ps[0].new_empty(len(ps), *ps[0].shape)
        pieces = list(stacked.unbind())
        grads: list[Tensor] = [p.grad for p in ps]  # type: ignore[misc]
        torch._foreach_copy_(pieces, grads if self.method.nesterov else momenta)
        if self.method.nesterov:
            torch._foreach_lerp_(pieces, momenta, group["momentum"])
        dtype = NS_DTYPES[self.method.ns_dtype] if self.method.ns_dtype else stacked.dtype
        return stacked.to(dtype)


@dataclass(frozen=True, slots=True)
class Muon(Method):
    """Momentum orthogonalised by Newton-Schulz, on matrices."""

    name: ClassVar[str] = "muon"
    paper: ClassVar[str] = "kellerjordan.github.io/posts/muon"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by Adam"

    lr: float = setting(0.02, "learning rate of matrices: the spectral norm of a step", above=0, papers="0.02")
    momentum: float = setting(0.95, "decay of the averaged gradient", least=0, below=1, papers="0.95")
    nesterov: bool = setting(True, "step by the average as it will be with the same gradient again", papers="true")
    ns_steps: int = setting(5, "steps of the Newton-Schulz iteration", least=1, papers="5")
    ns_dtype: str | None = setting(
        "bf16", "precision of that iteration; none: the weights'", choices=tuple(NS_DTYPES), papers="bf16"
    )
    adam_lr: float | None = setting(
        None, "learning rate of embedding, head and norms; none: 0.015 of lr, 3e-4 beside 0.02", above=0, papers="3e-4"
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.95), "Adam's decay of both moments", least=0, below=1, papers="0.9/0.95"
    )
    eps: float = setting(1e-10, "Adam's, added to the root of the second moment", above=0, papers="1e-10")
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)

    def prepare(self, model: nn.Module) -> MuonOptimizer:
        return MuonOptimizer(model, self)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.shape

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: momentum_buffer (M, N) in the parameter dtype. Other weights: Adam's two moments.

        Transient: X (M, N) twice and A (S, S) twice, in ns_dtype; where the parameter dtype is another, also at least
        the momentum, and later the update, (M, N) in the parameter dtype beside X (M, N) in ns_dtype.
        """
        if not weight.is_matrix:
            return adamw_footprint(weight)
        width = NS_DTYPES[self.ns_dtype].itemsize if self.ns_dtype else weight.itemsize
        transient = 2 * width * (weight.numel + min(weight.shape) ** 2)
        if width != weight.itemsize:
            transient = max(transient, (width + weight.itemsize) * weight.numel)
        return Footprint(param=weight.nbytes, grad=weight.nbytes, optimizer_state=weight.nbytes, transient=transient)
