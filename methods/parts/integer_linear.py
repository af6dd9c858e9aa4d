"""A linear layer whose weight is kept in integers and read back in forward and again in backward. No method, but
Q-GaLore's layer.

As QGaLoreLinear of VITA-Group/Q-GaLore, whose gradient lies in an attribute `float_grad` of the weight; here it is the
gradient of an anchor. A layer saves its input, as the plain one does, and no weight: W (M, N) in the dtype of its
scales exists in passing in both directions, and in backward is gone before the gradient of its own size is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memprof.method import Weight, replace_matrices
from memprof.methods.parts.anchor import AnchoredLinear, anchor
from memprof.methods.parts.integers import Integers, Packed
from memprof.walk import LinearWalk


class IntegerLinear(AnchoredLinear):
    """y = W x with W (M, N) in integers: buffers codes (M, N) uint8, scale and zero (G, 1)."""

    def __init__(self, linear: nn.Linear, integers: Integers) -> None:
        weight = linear.weight
        super().__init__(linear.in_features, linear.out_features, anchor(weight.shape, weight.dtype, weight.device))
        self.bias, self.integers = linear.bias, integers
        with torch.no_grad():
            rows, (flat,) = integers.empty([weight.numel()], weight)
            flat.copy_(weight.view(-1))
            scale, zero = integers.round_(rows)
        self.register_buffer("codes", integers.pack(flat).view(weight.shape))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.codes: Tensor
        self.scale: Tensor
        self.zero: Tensor

    @property
    def packed(self) -> Packed:
        return Packed(self.codes, self.scale, self.zero)

    def weight(self) -> Tensor:
        """W (M, N) as it is computed with."""
        return _weight(self.integers, self.codes, self.scale, self.zero)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = IntegerProduct.apply(  # type: ignore[no-untyped-call]
            x.flatten(end_dim=-2), self.anchor, self.codes, self.scale, self.zero, self.integers
        )
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


def _weight(integers: Integers, codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    _, (flat,) = integers.read([Packed(codes, scale, zero)], [codes.numel()])
    return flat.view(codes.shape)


class IntegerProduct(torch.autograd.Function):
    """x W^T, with the weight's gradient on the anchor."""

    @staticmethod
    def forward(
        ctx: Any, x_TN: Tensor, gradient: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, integers: Integers
    ) -> Tensor:
        ctx.save_for_backward(x_TN, codes, scale, zero)
        ctx.integers = integers
        return x_TN @ _weight(integers, codes, scale, zero).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        """Autocast has no say here: what it left in another dtype follows the output's gradient."""
        x_TN, codes, scale, zero = ctx.saved_tensors
        dtype = grad_TM.dtype
        grad_x = grad_TM @ _weight(ctx.integers, codes, scale, zero).to(dtype) if ctx.needs_input_grad[0] else None
        return grad_x, grad_TM.T @ x_TN.to(dtype), None, None, None, None


def add_products_(
    layers: Sequence[IntegerLinear],
    factors: Sequence[tuple[Tensor, Tensor]],
    beta: float,
    alpha: float,
    draws: torch.Generator | None,
) -> None:
    """W <- beta W + alpha (left right) of several layers, read back, and rounded stochastically to new codes.

    Scratch: two times the weights, in whole groups, and new scales and zeros.
    """
    integers, sizes = layers[0].integers, [layer.codes.numel() for layer in layers]
    rows, weights = integers.read([layer.packed for layer in layers], sizes)
    for layer, weight, (left, right) in zip(layers, weights, factors, strict=True):
        weight.view(layer.codes.shape).addmm_(left, right, beta=beta, alpha=alpha)
    codes, scale, zero = integers.round_stochastically(rows, draws)
    counts = [len(layer.scale) for layer in layers]
    torch._foreach_copy_([layer.codes.view(-1) for layer in layers], integers.views(codes, sizes))
    torch._foreach_copy_([layer.scale for layer in layers], list(scale.split(counts)))
    torch._foreach_copy_([layer.zero for layer in layers], list(zero.split(counts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerBackward:
    """How autograd goes back through `IntegerProduct`: one node, whose gradients are there when it returns."""

    weight: int
    """bytes of W, read back, in whole groups"""

    def __call__(self, layer: LinearWalk) -> None:
        pending = layer.grad if layer.walk.accumulating else 0
        layer.at("W", extra=self.weight)
        layer.at("gradient of x", extra=layer.grad_input)
        layer.at("W freed", extra=-self.weight)
        layer.at("gradient of W", grad=layer.grad - pending, extra=pending)
        layer.at("freed", extra=-layer.grad_output, activation=-layer.frees)
        layer.join()
        layer.at("gradient added", extra=-pending)

    def forward(self, layer: LinearWalk) -> None:
        layer.walk.passing(layer.name, self.weight + layer.grad_output)


@dataclass(frozen=True, slots=True)
class WeightStore:
    """How the weights of attention and MLP matrices are kept."""

    integers: Integers | None

    def adapt(self, model: nn.Module) -> None:
        integers = self.integers
        if integers is not None:
            replace_matrices(model, lambda _, linear: IntegerLinear(linear, integers))

    def param_bytes(self, weight: Weight) -> int:
        """Codes, scale and zero, and the anchor's one element."""
        if self.integers is None:
            return weight.nbytes
        return self.integers.stored_bytes(weight.numel, weight.itemsize) + weight.itemsize

    def backward(self, weight: Weight) -> IntegerBackward | None:
        if self.integers is None:
            return None
        return IntegerBackward(weight=self.integers.padded(weight.numel) * weight.itemsize)

    def scratch_bytes(self, weight: Weight) -> int:
        """Of `add_products_`, by one weight; as it is a weight takes none."""
        if self.integers is None:
            return 0
        rows = self.integers.padded(weight.numel) * weight.itemsize
        return 2 * rows + self.integers.scale_bytes(weight.numel, weight.itemsize)
