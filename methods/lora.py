"""LoRA: the weight is frozen and a product of two thin matrices, added to it, is trained in its place.

Hu et al. 2021, arXiv:2106.09685: y = W x + (alpha / R) B A x, with A kaiming-uniform (a = sqrt 5) and B zero, as
microsoft/LoRA, PEFT and ReLoRA initialise. Counted as in the GaLore and ReLoRA papers: adapters on every attention
and MLP matrix, in the parameter dtype; embeddings, head and norms trained as they are.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

What differs elsewhere:
* PEFT (0.21) freezes embeddings, head and norms, and keeps the adapters of a bf16 model, so their gradients and
  moments too, in fp32 unless `autocast_adapter_dtype=False`.
* No dropout here, where GaLore's LoRA has 0.05, ReLoRA's 0.1. On tokens x (T, N) it would save the dropped copy and a
  mask for backward, T * N * (itemsize + 1) bytes more for each treated layer; without it A shares the x of W.
* The frozen W costs no gradient and no moments, but its product with the output's gradient is still needed.

The forward adds into the base layer's fresh output with one addmm, so that B A x and its scaled copy never exist; it
saves h = A x, R elements a token, and nothing else that the plain layer does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memprof.method import STEP, Footprint, RankedMethod, Weight, known_rank, named_weights, replace_matrices
from memprof.methods.adamw import STEP_BYTES, AdamW
from memprof.methods.low_rank import ProductBackward, factor_bytes, factors
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.setting import setting


class LoRALinear(nn.Module):
    """y = W x + scaling B (A x), in the place of a linear layer whose W it keeps, frozen."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.requires_grad_(False)
        self.bias = linear.bias
        self.lora_A, self.lora_B = factors(linear, rank)
        self.scaling = alpha / rank
        self.reset_adapter()

    def reset_adapter(self) -> None:
        """A uniform in +-1/sqrt(N), B zero: the layer computes W x, and B, not A, has a gradient at once."""
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def adapter(self) -> list[Tensor]:
        """What is trained in place of W, and begun afresh when the adapter is merged."""
        return [self.lora_A.weight, self.lora_B.weight]

    @torch.no_grad()
    def merge_(self) -> None:
        """W += scaling B A in place, and the adapter afresh: a new subspace to learn in."""
        self.weight.addmm_(self.lora_B.weight, self.lora_A.weight, alpha=self.scaling)
        self.reset_adapter()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(end_dim=-2)
        y, h = F.linear(tokens, self.weight, self.bias), self.lora_A(tokens)
        # Neither linear saves its output, so y may be written to. Autocast casts no in-place operand: B follows y.
        y = y.addmm_(h, self.lora_B.weight.to(y.dtype).t(), alpha=self.scaling)
        return y.view(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class LoRA(RankedMethod):
    """Frozen weights with trained low-rank adapters; AdamW over the adapters, embeddings, head and norms."""

    name: ClassVar[str] = "lora"
    paper: ClassVar[str] = "arXiv:2106.09685"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"

    rank: int | None = setting(
        None,
        "rank R of the adapters; default a quarter of the smallest side, <= 256",
        least=1,
        papers="GaLore's: 128/256/256/512 for 60m/130m/350m/1b",
    )
    alpha: float = setting(32.0, "the adapter's product is scaled by alpha / rank", above=0, papers="32")
    lr: float = setting(1e-3, "learning rate", above=0, papers="GaLore's: best of 1e-2 to 1e-4")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, on what is trained", least=0, papers="0")

    def layer(self, linear: nn.Linear, rank: int) -> LoRALinear:
        """What takes the place of a linear layer."""
        return LoRALinear(linear, rank, self.alpha)

    def adapt(self, model: nn.Module) -> list[LoRALinear]:
        """Give every attention and MLP layer its adapter, and return the new layers."""
        rank = known_rank(self.name, self.bind(weight for weight, _ in named_weights(model)).rank)
        replace_matrices(model, lambda _, linear: self.layer(linear, rank))
        return [module for module in model.modules() if isinstance(module, LoRALinear)]

    def prepare(self, model: nn.Module) -> FusedAdamW:
        self.adapt(model)
        return FusedAdamW.of(model, self)

    def formula(self, weight: Weight) -> Footprint:
        """Of a treated matrix: W (M, N) frozen + A (R, N) + B (M, R); gradients of A and B; for each of the two
        step () fp32 + exp_avg + exp_avg_sq, of its shape. All but the step in the parameter dtype. Saved per token:
        h (R,). No scratch.
        """
        if not weight.is_matrix:
            return AdamW().formula(weight)
        rank = known_rank(self.name, self.rank)
        pair = factor_bytes(weight, rank)
        return Footprint(
            param=weight.nbytes + pair,
            frozen=weight.nbytes,
            grad=pair,
            optimizer_state=2 * (pair + STEP_BYTES),
            trained=2,
            parts={STEP: 2 * STEP_BYTES},
            saved_per_token=rank * weight.itemsize,
            backward=ProductBackward(
                b_grad=rank * weight.shape[0] * weight.itemsize, scaled=self.alpha != rank, beside=True
            ),
        )
