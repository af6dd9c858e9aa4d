"""MoRA's layer: y = W x + decompress(S compress(x)), its input compressed again in backward. Letters as in mora.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memprof.methods.parts.square_compression import (
    ROTATION,
    TYPES,
    Maps,
    Rotation,
    Sharing,
    angles,
    round_up,
    square_side,
)
from memprof.walk import LinearWalk

UNITS = 1024
"""unit vectors that go through an adapter at once when it is merged"""


def update(x_TN: Tensor, square_QQ: Tensor, maps: Maps) -> Tensor:
    """S compress(x): (T, Q), or of P pieces (T, P Q)."""
    u = maps.compress(x_TN)
    return (u.reshape(-1, len(square_QQ)) @ square_QQ.T).view(u.shape)


class SquareUpdate(torch.autograd.Function):
    """y = W x + decompress(S compress(x)), W frozen."""

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, weight_MN: Tensor, square_QQ: Tensor, maps: Maps) -> Tensor:
        ctx.save_for_backward(x_TN, weight_MN, square_QQ)
        ctx.maps = maps
        y_TM = x_TN @ weight_MN.T
        maps.decompress_(y_TM, update(x_TN, square_QQ, maps))
        return y_TM

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, weight_MN, square_QQ = ctx.saved_tensors
        maps, side = ctx.maps, len(square_QQ)
        grad_v = maps.decompress_back(grad_TM)
        grad_square = grad_v.reshape(-1, side).T @ maps.compress(x_TN).view(-1, side)
        if not ctx.needs_input_grad[0]:
            return None, None, grad_square, None
        grad_u = (grad_v.reshape(-1, side) @ square_QQ).view(grad_v.shape)
        del grad_v
        grad_u = maps.turn_back(grad_u)
        grad_x = grad_TM @ weight_MN
        maps.compress_back_(grad_x, grad_u)
        return grad_x, None, grad_square, None


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareBackward:
    """How autograd goes back through `SquareUpdate`; all sizes in bytes for one token."""

    grad_v: int
    """of what S gave, gathered from the output's; 0 where it is the output's"""
    copy: int
    """the input's continuation, where it has one"""
    u: int
    """the compressed input; 0 where it is the input"""
    grad_u: int
    turned: int
    """the same turned back; 0 where nothing is turned"""

    def __call__(self, layer: LinearWalk) -> None:
        at, tokens = layer.at, layer.tokens
        pending = layer.grad if layer.walk.accumulating else 0
        at("gradient of S compress(x)", extra=tokens * self.grad_v)
        layer.walk.passing(f"{layer.name} compress(x)", tokens * (self.copy + self.u))
        at("gradient of S", grad=layer.grad - pending, extra=pending + tokens * self.u)
        at("compress(x) freed", extra=-tokens * self.u)
        at("gradient of compress(x)", extra=tokens * self.grad_u)
        at("gradient of S compress(x) freed", extra=-tokens * self.grad_v)
        layer.walk.passing(f"{layer.name} turned back", tokens * self.turned)
        at("gradient of x", extra=layer.grad_input)
        at("freed", extra=-tokens * self.grad_u - layer.grad_output, activation=-layer.frees)
        layer.join()
        at("gradients added", extra=-pending)

    def forward(self, layer: LinearWalk) -> None:
        compressed = layer.tokens * (max(self.copy, self.grad_u) + self.u)  # S u is as wide as its gradient
        layer.walk.passing(layer.name, layer.grad_output + compressed)


class MoRALinear(nn.Module):
    """y = W x + decompress(S compress(x)), in the place of a linear layer whose W it keeps, frozen."""

    def __init__(self, linear: nn.Linear, rank: int, grouping: str) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.requires_grad_(False)
        self.bias = linear.bias
        side = square_side((self.out_features, self.in_features), rank, grouping)
        self.lora_S = nn.Parameter(self.weight.new_zeros(side, side))
        self.kind = 1
        if grouping == ROTATION:
            angles_PH = angles(round_up(self.in_features, side) // side, side, self.weight)
            self.register_buffer("cos", angles_PH.cos().to(self.weight.dtype), persistent=False)
            self.register_buffer("sin", angles_PH.sin().to(self.weight.dtype), persistent=False)
        self.grouping = grouping

    @property
    def maps(self) -> Maps:
        if self.grouping == ROTATION:
            return Rotation(self.get_buffer("cos"), self.get_buffer("sin"))
        return Sharing(len(self.lora_S), *TYPES[self.kind])

    def adapter(self) -> list[nn.Parameter]:
        """What is trained in place of W."""
        return [self.lora_S]

    @torch.no_grad()
    def merge_(self) -> None:
        """W += what the adapter does to the unit vectors, in place, and S zero: the same function, up to rounding."""
        for begin in range(0, self.in_features, UNITS):
            columns_MT = self.weight[:, begin : begin + UNITS]
            unit_TN = self.weight.new_zeros(columns_MT.shape[1], self.in_features)
            unit_TN.diagonal(offset=begin).fill_(1)
            self.maps.decompress_(columns_MT.T, update(unit_TN, self.lora_S, self.maps))
            del unit_TN
        self.lora_S.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = SquareUpdate.apply(x.flatten(end_dim=-2), self.weight, self.lora_S, self.maps)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)
