"""Low-rank factorisation: every attention and MLP matrix is stored as a product W = B A, and only A and B exist.

Kamalakara et al. 2022, arXiv:2209.13569; the "Low-Rank" baseline of GaLore's and GaLore-mini's tables. There is no
public implementation to follow byte by byte: this is the paper's factorised layer under torch's fused AdamW.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

Embeddings, head and norms are trained as they are, as those tables count. The layer saves h = A x for backward, R
elements a token more than the plain layer. Where R > M N / (M + N) the product is larger than W itself. The tables
count 2 R (M + N) moments a matrix, which is what is stored but for torch's step counts (4 bytes a tensor).

Initialisation. `random`: A ~ N(0, 1/N) keeps the scale of x in h, and B ~ N(0, N rms(W)^2 / R) gives B A the root
mean square of the W it replaces (0.02 in a fresh LLaMA), as Var(BA) = R Var(A) Var(B). `spectral`, the paper's: the
best rank-R approximation of W by its SVD, halved between A and B by the root of the singular values. Use it to start
from trained weights, which `random` forgets; it costs one fp32 SVD a matrix, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memprof.method import STEP, Footprint, RankedMethod, Weight, known_rank, named_weights, replace_matrices, room_for
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.setting import setting
from memprof.walk import LinearWalk


def random_(a_RN: Tensor, b_MR: Tensor, weight_MN: Tensor) -> None:
    """Fill A and B so that h = A x has the scale of x, and B A the root mean square of W. No host read."""
    rank, n_in = a_RN.shape
    dtype = torch.promote_types(weight_MN.dtype, torch.float32)
    rms = torch.linalg.vector_norm(weight_MN, dtype=dtype) / math.sqrt(weight_MN.numel())
    a_RN.normal_(std=n_in**-0.5)
    b_MR.normal_().mul_(rms * math.sqrt(n_in / rank))


def spectral_(a_RN: Tensor, b_MR: Tensor, weight_MN: Tensor, scale: float = 1.0) -> None:
    """Fill A and B with the largest R singular triplets of W / scale, each taking the root of the singular value.

    Beside W: its fp32 copy (bf16 and fp16 only), U (M, S), singular values (S,) and V^T (S, N), S = min(M, N).
    """
    rank = a_RN.shape[0]
    u, s, vh = torch.linalg.svd(weight_MN.to(torch.promote_types(weight_MN.dtype, torch.float32)), full_matrices=False)
    root = s[:rank].div_(scale).sqrt_()
    a_RN.copy_(vh[:rank].mul_(root[:, None]))
    b_MR.copy_(u[:, :rank].mul_(root))


INITS = {"random": random_, "spectral": spectral_}


def factors(linear: nn.Linear, rank: int) -> tuple[nn.Linear, nn.Linear]:
    """A (R, N) and B (M, R) as layers, uninitialised, in the dtype and on the device of `linear`."""
    dtype, device = linear.weight.dtype, linear.weight.device
    a = nn.Linear(linear.in_features, rank, bias=False, dtype=dtype, device="meta")  # meta: drawn once, by the caller
    b = nn.Linear(rank, linear.out_features, bias=False, dtype=dtype, device="meta")
    return room_for(a, device), room_for(b, device)


def factor_bytes(weight: Weight, rank: int) -> int:
    """A (R, N) + B (M, R), in the parameter dtype."""
    return rank * sum(weight.shape) * weight.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductBackward:
    """How autograd goes back through y = B h, h = A x, (+ W x): through B, then A, then the frozen W."""

    b_grad: int
    """bytes of B's gradient, which comes first; the rest of the layer's is A's"""
    scaled: bool = False
    """the product has a factor, so the gradients of h and of B are made once without and once with it"""
    beside: bool = False
    """the layer's own weight stays, frozen, and gives its input a second gradient"""

    def __call__(self, layer: LinearWalk) -> None:
        h, name, walk = layer.saved, layer.name, layer.walk
        if self.scaled:
            walk.passing(f"{name} gradient of A x, with and without the scale", 2 * h)
            walk.scratch(f"{name} B gradient, with and without the scale", h + self.b_grad, self.b_grad)
        walk.gradients(f"{name} B", self.b_grad, h)
        layer.at("B freed", extra=0 if self.beside else -layer.grad_output, activation=-h)
        walk.gradients(f"{name} A", layer.grad - self.b_grad, layer.grad_input)
        layer.at("A freed", extra=-h, activation=-layer.frees)
        layer.join("A")
        if self.beside:
            layer.at("frozen weight", extra=layer.grad_input)
            layer.at("freed", extra=-layer.grad_output)
            walk.add(name, layer.grad_input)


class LowRankLinear(nn.Module):
    """y = B (A x), in the place of a linear layer."""

    def __init__(self, linear: nn.Linear, rank: int, init: str) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.A, self.B = factors(linear, rank)
        self.bias = linear.bias
        with torch.no_grad():
            INITS[init](self.A.weight, self.B.weight, linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.A(x), self.B.weight, self.bias)


@dataclass(frozen=True, slots=True)
class LowRank(RankedMethod):
    """W = B A for every attention and MLP matrix, both trained by AdamW."""

    name: ClassVar[str] = "low-rank"
    paper: ClassVar[str] = "arXiv:2209.13569"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"

    rank: int | None = setting(
        None,
        "rank R of every product; default a quarter of the smallest side, <= 256",
        least=1,
        papers="GaLore's: 128/256/256/512 for 60m/130m/350m/1b",
    )
    init: str = setting("random", "random: W's scale; spectral: the SVD of W", choices=tuple(INITS), papers="spectral")
    lr: float = setting(1e-3, "learning rate", above=0, papers="GaLore's: best of 1e-2 to 1e-4")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0, papers="GaLore's: 0")

    def prepare(self, model: nn.Module) -> FusedAdamW:
        rank = known_rank(self.name, self.bind(weight for weight, _ in named_weights(model)).rank)
        replace_matrices(model, lambda _, linear: LowRankLinear(linear, rank, self.init))
        return FusedAdamW.of(model, self)

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: A (R, N) + B (M, R); their gradients; for each of the two step () fp32 + exp_avg +
        exp_avg_sq, of its shape. All but the step in the parameter dtype. Saved per token: h (R,). No scratch.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        rank = known_rank(self.name, self.rank)
        pair = factor_bytes(weight, rank)
        return Footprint(
            param=pair,
            grad=pair,
            optimizer_state=2 * (pair + STEP_BYTES),
            trained=2,
            parts={STEP: 2 * STEP_BYTES},
            saved_per_token=rank * weight.itemsize,
            backward=ProductBackward(b_grad=rank * weight.shape[0] * weight.itemsize),
        )
