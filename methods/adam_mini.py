"""Adam-mini: Adam with one second moment per block of a weight instead of one per element.

Zhang et al. 2024, arXiv:2406.16793; blocks and order of operations follow the authors' adam-mini 1.1.1.
A block is what shares a learning rate: a head of q and k; an output row of v, o, gate, up, down and any other matrix;
a token's row of embedding and head; a norm as a whole.
Shapes: a weight of n elements has B blocks of n / B elements each, seen as (B, n / B).

Paper and code: 1.1.x keeps both states in the parameter's dtype. In bf16 and with beta2 = 0.999, vmean * beta2 mostly
rounds back to vmean, there and here. (1.0.x kept fp32 states, and all of v for embedding and head.) The authors' code
knows blocks by substrings of names and takes dim * dim / n_heads elements for a head, silently wrong where dim and
n_heads were left at their defaults; here roles and head counts decide. It gives a "bias" plain Adam; a 1-D tensor is
one block here, and is not decayed. Per weight it makes g * g, m * stepsize and their negation, all full-size; here the
mean of g^2 is a row norm squared, accumulated in fp32, and the update one addcdiv_ with a broadcast denominator.
In pure fp16 the block means and eps underflow and the weights become NaN within a few steps, as with the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Role, Weight, named_weights
from memprof.optimizer import MethodOptimizer, with_grad
from memprof.setting import setting

PER_HEAD = frozenset({Role.Q, Role.K})


def num_blocks(weight: Weight) -> int:
    """How many second moments a weight has."""
    if len(weight.shape) < 2:
        return 1
    return weight.heads if weight.role in PER_HEAD else weight.shape[0]


def as_blocks(tensor: Tensor, blocks: int) -> Tensor:
    """(B, n / B), one block a row; a matrix of one block a row already, and a norm, as it is."""
    return tensor if tensor.ndim < 2 or tensor.shape[:-1] == (blocks,) else tensor.view(blocks, -1)


def block_norm(grad: Tensor, blocks: int) -> Tensor:
    """The norm of every block, (B, 1), or () for a norm: sqrt(n / B * mean g^2) without a g^2."""
    rows = grad.ndim > 1
    norm: Tensor = torch.linalg.vector_norm(as_blocks(grad, blocks), dim=1 if rows else None, keepdim=rows)
    return norm


def update_vmeans_(vmeans: list[Tensor], grads: list[Tensor], beta2: float) -> None:
    """vmean = beta2 * vmean + (1 - beta2) * mean of g^2 over each block."""
    norms = [block_norm(grad, vmean.numel()) for grad, vmean in zip(grads, vmeans, strict=True)]
    weights = [(1 - beta2) * vmean.numel() / grad.numel() for grad, vmean in zip(grads, vmeans, strict=True)]
    torch._foreach_mul_(vmeans, beta2)
    torch._foreach_addcmul_(vmeans, norms, norms, weights)


def denominators(vmeans: list[Tensor], step: int, beta2: float, eps: float) -> list[Tensor]:
    """sqrt(vmean / (1 - beta2^t)) + eps, shaped as the vmeans."""
    roots = torch._foreach_sqrt(vmeans)
    torch._foreach_div_(roots, (1 - beta2**step) ** 0.5)
    torch._foreach_add_(roots, eps)
    return list(roots)


class AdamMiniOptimizer(MethodOptimizer):
    """Adam-mini over a model's weights: a norm and an update per weight, all else in a handful of calls."""

    def __init__(
        self,
        pairs: Iterable[tuple[Weight, nn.Parameter]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self.blocks_of = {parameter: num_blocks(weight) for weight, parameter in pairs}
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(list(self.blocks_of), defaults)

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                group["step"] += 1
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        states = [self._state(p) for p in params]
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        ms = [state["m"] for state in states]
        vmeans = [state["vmean"] for state in states]
        update_vmeans_(vmeans, grads, beta2)
        decayed = [p for p in params if p.ndim > 1]
        if group["weight_decay"] and decayed:
            torch._foreach_mul_(decayed, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(ms, grads, 1 - beta1)
        value = -group["lr"] / (1 - beta1 ** group["step"])
        for p, m, root in zip(params, ms, denominators(vmeans, group["step"], beta2, group["eps"]), strict=True):
            blocks = root.numel()
            as_blocks(p, blocks).addcdiv_(as_blocks(m, blocks), root, value=value)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["m"] = torch.zeros_like(p)
            state["vmean"] = p.new_zeros((self.blocks_of[p], 1) if p.ndim > 1 else ())  # type: ignore[index]
        return state


@dataclass(frozen=True, slots=True)
class AdamMini(Method):
    """Adam-mini with the partition of version 1.1."""

    name: ClassVar[str] = "adam-mini"
    paper: ClassVar[str] = "arXiv:2406.16793"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(1e-3, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, of matrices only", least=0)

    def prepare(self, model: nn.Module) -> AdamMiniOptimizer:
        pairs = [(weight, parameter) for weight, parameter in named_weights(model) if parameter.requires_grad]
        return AdamMiniOptimizer(pairs, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """All weights together: their scratch is one number per block."""
        return sum(self.formula(weight).transient for weight in weights)

    def formula(self, weight: Weight) -> Footprint:
        """State: m (n,) + vmean (B, 1), or () for a norm, both in the parameter's dtype.

        Transient: the block norms (B, 1), then, when those are gone, the denominators (B, 1), in the parameter's dtype.
        """
        block_bytes = num_blocks(weight) * weight.itemsize
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=weight.nbytes + block_bytes,
            transient=block_bytes,
        )
