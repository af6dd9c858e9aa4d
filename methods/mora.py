"""MoRA: the weight is frozen and beside it a square matrix is trained, between two fixed maps that have no parameters.

Jiang et al. 2024, arXiv:2405.12130; follows kongds/MoRA (de5df31). y = W x + decompress(S compress(x)), S zero at
first. Shapes: a weight is (M, N); R is the rank of a LoRA with as many parameters, and S is (Q, Q) with
Q = int(sqrt((M + N) R) + 1/2), so its update may have rank Q, not R. Scale 1: the authors use no alpha.

`grouping` says what compress and decompress do:
* "rotation" (equation 9; type 6 in the code): x, continued from its own start to a multiple of Q, is cut into P pieces;
  piece i is turned by i as RoPE turns position i, with base 10000; S maps each; the P outputs, end to end and repeated
  or cut to M, are the update. Q is rounded down to an even number.
* "sharing": Q groups of inputs are summed, and each output of S goes to a group of outputs. Groups are cyclic (input j
  to group j mod Q; x is continued as above where Q does not divide N) or contiguous. The code's types: 1 cyclic in and
  out, 2 contiguous in and out, 3 contiguous in, cyclic out, 4 the reverse. `mora` stays with type 1, the code's
  default, which its README advises for large ranks; for small ones, rotation.

What differs in the repository: PEFT 0.9 with its fp32 adapters and dropout; and each layer keeps its own compressed
input for backward, the rotated copy (P Q) or the groups' sums (Q) of each token. Ours keeps x, which q, k, v and gate,
up share, and compresses it again in backward. Its tables of cosines and sines are (P, Q) each, ours (P, Q / 2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, bound_rank, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW, FusedAdamW
from memprof.setting import setting
from memprof.walk import LinearWalk

ROTATION, SHARING = "rotation", "sharing"
CYCLIC, CONTIGUOUS = "cyclic", "contiguous"
TYPES = {1: (CYCLIC, CYCLIC), 2: (CONTIGUOUS, CONTIGUOUS), 3: (CONTIGUOUS, CYCLIC), 4: (CYCLIC, CONTIGUOUS)}
"""how inputs and outputs are grouped, by the number that the authors' code gives it"""
ROPE_BASE = 10_000
UNITS = 1024
"""unit vectors that go through an adapter at once when it is merged"""


def square_side(shape: tuple[int, ...], rank: int, grouping: str) -> int:
    """Q of a weight (M, N)."""
    side = int(math.sqrt(sum(shape) * rank) + 0.5)
    return max(2, side // 2 * 2) if grouping == ROTATION else side


def round_up(length: int, side: int) -> int:
    """P Q: the input with its continuation."""
    return -(-length // side) * side


def angles(count: int, side: int, like: Tensor) -> Tensor:
    """Of RoPE on Q numbers at positions 0 ... P - 1: (P, Q / 2), in fp32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    places = torch.arange(count, dtype=dtype, device=like.device)
    rates = ROPE_BASE ** (-torch.arange(0, side, 2, dtype=dtype, device=like.device) / side)
    return torch.outer(places, rates)


def continued(x_TN: Tensor, length: int) -> Tensor:
    """The first `length` columns of x, x, x, ...: a view of x where it has as many, else a copy."""
    whole, rest = divmod(length, x_TN.shape[1])
    return torch.cat([x_TN] * whole + [x_TN[:, :rest]], dim=1) if length > x_TN.shape[1] else x_TN[:, :length]


def fold_(out_TN: Tensor, x_TL: Tensor) -> None:
    """The transpose of `continued`: add column j of x to column j mod N, in place."""
    for part_TL in x_TL.split(out_TN.shape[1], dim=1):
        out_TN[:, : part_TL.shape[1]].add_(part_TL)


def gather(x_TN: Tensor, side: int, grouping: str) -> Tensor:
    """Sums of groups of columns, (T, side); x itself where each group is one column."""
    if x_TN.shape[1] == side:
        return x_TN
    out = x_TN.new_zeros(x_TN.shape[0], side)
    for members, columns in _groups(x_TN, out, grouping):
        if members.shape[1] == 1:
            columns.add_(members.squeeze(1))
        else:
            torch.sum(members, dim=1, out=columns)
    return out


def spread_(out_TN: Tensor, v: Tensor, grouping: str) -> None:
    """The transpose of `gather`: add to each column what its group has, in place."""
    for members, columns in _groups(out_TN, v, grouping):
        members.add_(columns.unsqueeze(1))


def _groups(x_TN: Tensor, of: Tensor, grouping: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Columns of x as views (T, members, groups) beside their groups' columns of `of`, larger groups first."""
    side = of.shape[1]
    each, more = divmod(x_TN.shape[1], side)
    if grouping == CYCLIC:
        if each:
            yield x_TN[:, : each * side].unflatten(1, (each, side)), of
        if more:
            yield x_TN[:, each * side :].unsqueeze(1), of[:, :more]
    else:
        border = more * (each + 1)
        if more:
            yield x_TN[:, :border].unflatten(1, (more, each + 1)).transpose(1, 2), of[:, :more]
        if each:
            yield x_TN[:, border:].unflatten(1, (side - more, each)).transpose(1, 2), of[:, more:]


@dataclass(frozen=True, slots=True)
class Sharing:
    """Sums of groups of inputs, and copies to groups of outputs."""

    side: int
    inputs: str
    outputs: str

    def compress(self, x_TN: Tensor) -> Tensor:
        u_TQ = gather(x_TN, self.side, self.inputs)
        if missing := self._missing(x_TN):
            u_TQ[:, -missing:].add_(continued(x_TN, missing))
        return u_TQ

    def turn_back(self, grad_TQ: Tensor) -> Tensor:
        return grad_TQ

    def compress_back_(self, grad_TN: Tensor, grad_TQ: Tensor) -> None:
        """The transpose of `compress`, added to the gradient of x."""
        spread_(grad_TN, grad_TQ, self.inputs)
        if missing := self._missing(grad_TN):
            fold_(grad_TN, grad_TQ[:, -missing:])

    def decompress_(self, y_TM: Tensor, v_TQ: Tensor) -> None:
        spread_(y_TM, v_TQ, self.outputs)

    def decompress_back(self, grad_TM: Tensor) -> Tensor:
        return gather(grad_TM, self.side, self.outputs)

    def _missing(self, x_TN: Tensor) -> int:
        return -x_TN.shape[1] % self.side if self.inputs == CYCLIC else 0


@dataclass(frozen=True, slots=True)
class Rotation:
    """Pieces of x, each turned by its place as RoPE turns a position; outputs end to end."""

    cos_PH: Tensor
    sin_PH: Tensor
    """H = Q / 2 angles of each piece"""

    def compress(self, x_TN: Tensor) -> Tensor:
        return self._turned(continued(x_TN, 2 * self.cos_PH.numel()), 1)

    def turn_back(self, grad: Tensor) -> Tensor:
        return self._turned(grad, -1)

    def compress_back_(self, grad_TN: Tensor, grad: Tensor) -> None:
        """The rest of `compress`'s transpose, added to the gradient of x."""
        fold_(grad_TN, grad)

    def decompress_(self, y_TM: Tensor, v: Tensor) -> None:
        spread_(y_TM, v, CYCLIC)

    def decompress_back(self, grad_TM: Tensor) -> Tensor:
        return gather(grad_TM, 2 * self.cos_PH.numel(), CYCLIC)

    def _turned(self, x: Tensor, direction: int) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        (a, b), (out_a, out_b) = (t.unflatten(1, (len(self.cos_PH), -1)).chunk(2, dim=-1) for t in (x, out))
        torch.mul(a, self.cos_PH, out=out_a).addcmul_(b, self.sin_PH, value=-direction)
        torch.mul(b, self.cos_PH, out=out_b).addcmul_(a, self.sin_PH, value=direction)
        return out


Maps = Sharing | Rotation


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


@dataclass(frozen=True, slots=True)
class MoRA(Method):
    """Frozen weights with a trained square matrix between fixed maps; AdamW over that, embeddings, head and norms."""

    name: ClassVar[str] = "mora"
    paper: ClassVar[str] = "arXiv:2405.12130"

    rank: int | None = setting(
        None,
        "R of the LoRA that has as many parameters; default a quarter of the smallest side, <= 256",
        least=1,
        papers="128 in pre-training; 8, 256",
    )
    grouping: str = setting(
        ROTATION,
        "how inputs become the square's: pieces turned as by RoPE, or shared by groups",
        choices=(ROTATION, SHARING),
        papers="rotation for small ranks, sharing for large ones",
    )
    lr: float = setting(1e-3, "learning rate", above=0, papers="5e-4 in pre-training")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, on what is trained", least=0)

    def bind(self, weights: Iterable[Weight]) -> Self:
        return dataclasses.replace(self, rank=bound_rank(self.name, self.rank, weights))

    def adapt(self, model: nn.Module) -> list[MoRALinear]:
        """Give every attention and MLP layer its adapter, and return the new layers."""
        rank = known_rank(self.name, self.bind(weight for weight, _ in named_weights(model)).rank)
        replace_matrices(model, lambda _, linear: MoRALinear(linear, rank, self.grouping))
        return [module for module in model.modules() if isinstance(module, MoRALinear)]

    def prepare(self, model: nn.Module) -> FusedAdamW:
        self.adapt(model)
        return FusedAdamW(
            (p for p in model.parameters() if p.requires_grad),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def sides(self, weight: Weight) -> tuple[int, int]:
        """Q, and how wide a token is when compressed: P Q pieces that are turned, or Q sums."""
        side = square_side(weight.shape, known_rank(self.name, self.rank), self.grouping)
        return side, round_up(weight.shape[1], side) if self.grouping == ROTATION else side

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: W (M, N) frozen + S (Q, Q) + with rotation two tables (P, Q / 2); gradient of S; step ()
        fp32 + exp_avg + exp_avg_sq of S. All but the step in the parameter dtype. Nothing is saved: the input is
        compressed again in backward, (P Q,) or (Q,) a token, as are the gradients on both sides of S.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        (rows, columns), e = weight.shape, weight.itemsize
        side, width = self.sides(weight)
        square = side**2 * e
        turns = self.grouping == ROTATION
        return Footprint(
            param=weight.nbytes + square + (width * e if turns else 0),
            grad=square,
            optimizer_state=2 * square + STEP_BYTES,
            backward=SquareBackward(
                grad_v=0 if rows == width else width * e,
                copy=width * e if turns and width != columns else 0,
                u=0 if not turns and columns == side else width * e,
                grad_u=width * e,
                turned=width * e if turns else 0,
            ),
        )
