"""SLTrain: every attention and MLP matrix is a product of two thin ones plus a sparse one on a fixed random support.

Han et al. 2024, arXiv:2406.02214; follows andyjm3/SLTrain (2335d62), whose layer is a C++ extension.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R); K = int(density M N) entries, with their values
v (K,) and their places in the flattened weight, i (K,) int64, drawn once, without repetition, and sorted.

W = s B A + scatter(i, v), s = alpha / R, is stored nowhere. Forward makes it, dense, and drops it; backward makes it
again for the gradient of the input, drops it, makes the dense gradient dW = dY^T X (M, N), and takes from it
dB = s dW A^T, dA = s B^T dW, dv = dW[i]. So a layer saves nothing that the plain one does not, and at its worst holds
one dense matrix beside the gradients. What R and density save in moments, the int64 places give back in part: 8 bytes
an entry, 0.24 bytes an element of W at density 0.03.

Initialisation is theirs: A kaiming-uniform (a = sqrt 5), B zero, v uniform in +-1/sqrt(N). The weights of the model
that is given are forgotten: SLTrain trains from scratch.

What differs in the repository: it hands its layer a scaled copy of A, which autograd keeps for backward, R N elements a
layer; here the scale goes into the products. Its 7b run uses 8-bit Adam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import STEP, Footprint, RankedMethod, Weight, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.low_rank import factor_bytes
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.methods.parts.products import scaled_product
from memprof.setting import setting
from memprof.walk import LinearWalk

INT64 = 8


def dense(b_MR: Tensor, a_RN: Tensor, value_K: Tensor, index_K: Tensor, scale: float) -> Tensor:
    """W = scale * B A, with v added at the flat places i."""
    weight_MN = scaled_product(b_MR, a_RN, scale)
    weight_MN.view(-1).scatter_add_(0, index_K, value_K)
    return weight_MN


class SparsePlusLowRank(torch.autograd.Function):
    """y = W x with W made from B, A, v and i in forward, and again in backward."""

    @staticmethod
    def forward(ctx: Any, x_TN: Tensor, b_MR: Tensor, a_RN: Tensor, value_K: Tensor, index_K: Tensor, scale: float) -> Tensor:  # fmt: skip  # noqa: E501
        ctx.save_for_backward(x_TN, b_MR, a_RN, value_K, index_K)
        ctx.scale = scale
        return x_TN @ dense(b_MR, a_RN, value_K, index_K, scale).T

    @staticmethod
    def backward(ctx: Any, grad_TM: Tensor) -> tuple[Tensor | None, ...]:
        x_TN, b_MR, a_RN, value_K, index_K = ctx.saved_tensors
        grad_x = grad_TM @ dense(b_MR, a_RN, value_K, index_K, ctx.scale) if ctx.needs_input_grad[0] else None
        grad_MN = grad_TM.T @ x_TN
        grad_b = scaled_product(grad_MN, a_RN.T, ctx.scale)
        grad_a = scaled_product(b_MR.T, grad_MN, ctx.scale)
        return grad_x, grad_b, grad_a, grad_MN.view(-1).gather(0, index_K), None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseBackward:
    """How autograd goes back through `SparsePlusLowRank`, one node: all of its gradients are there when it returns."""

    weight: int
    """bytes of a dense (M, N): of W first, then of its gradient"""

    def __call__(self, layer: LinearWalk) -> None:
        pending = layer.grad if layer.walk.accumulating else 0
        layer.at("W", extra=self.weight)
        layer.at("gradient of x", extra=layer.grad_input)
        layer.at("W freed", extra=-self.weight)
        layer.at("gradient of W", extra=self.weight)
        layer.at("gradients of A, B, v", grad=layer.grad - pending, extra=pending)
        layer.at("freed", extra=-self.weight - layer.grad_output, activation=-layer.frees)
        layer.join()
        layer.at("gradients added", extra=-pending)

    def forward(self, layer: LinearWalk) -> None:
        layer.walk.passing(layer.name, self.weight + layer.grad_output)


class SLTrainLinear(nn.Module):
    """y = ((alpha / R) B A + scatter(i, v)) x, in the place of a linear layer whose weight goes."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, entries: int) -> None:
        super().__init__()
        like = linear.weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.scaling = alpha / rank
        self.lora_A = nn.Parameter(like.new_empty(rank, self.in_features))
        self.lora_B = nn.Parameter(like.new_zeros(self.out_features, rank))
        self.sparse_value = nn.Parameter(like.new_empty(entries))
        places = torch.randperm(like.numel(), device=like.device)[:entries].sort().values
        self.register_buffer("sparse_index", places)
        self.sparse_index: Tensor
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.uniform_(self.sparse_value, -(self.in_features**-0.5), self.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = SparsePlusLowRank.apply(  # type: ignore[no-untyped-call]
            x.flatten(end_dim=-2), self.lora_B, self.lora_A, self.sparse_value, self.sparse_index, self.scaling
        )
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class SLTrain(RankedMethod):
    """W = low-rank + sparse, both trained by AdamW; the support of the sparse part is drawn once."""

    name: ClassVar[str] = "sltrain"
    paper: ClassVar[str] = "arXiv:2406.02214"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"

    rank: int | None = setting(
        None,
        "rank R of the product; default a quarter of the smallest side, <= 256",
        least=1,
        papers="128/256/256/512/1024 for 60m/130m/350m/1b/7b",
    )
    density: float = setting(
        0.03, "share of the weight's entries in the sparse part", above=0, most=1, papers="0.03; 0.05 for 7b"
    )
    alpha: float = setting(32.0, "the product is scaled by alpha / rank", above=0, papers="32/16/16/8/8")
    lr: float = setting(3e-3, "learning rate", above=0, papers="0.003")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0, papers="0")

    def entries(self, weight: Weight) -> int:
        """K, at least 1."""
        return max(1, int(self.density * weight.numel))

    def prepare(self, model: nn.Module) -> FusedAdamW:
        rank = known_rank(self.name, self.bind(weight for weight, _ in named_weights(model)).rank)
        replace_matrices(model, lambda w, linear: SLTrainLinear(linear, rank, self.alpha, self.entries(w)))
        return FusedAdamW.of(model, self)

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: A (R, N) + B (M, R) + v (K,) + i (K,) int64; gradients of A, B and v; for each of the
        three step () fp32 + exp_avg + exp_avg_sq, of its shape. All but i and the step in the parameter dtype. No W,
        nothing saved. In forward W (M, N) in passing; in backward W (M, N), then its gradient (M, N).
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        entries = self.entries(weight)
        trained = factor_bytes(weight, known_rank(self.name, self.rank)) + entries * weight.itemsize
        return Footprint(
            param=trained + INT64 * entries,
            frozen=INT64 * entries,
            grad=trained,
            optimizer_state=2 * trained + 3 * STEP_BYTES,
            trained=3,
            parts={STEP: 3 * STEP_BYTES},
            backward=DenseBackward(weight=weight.nbytes),
        )
