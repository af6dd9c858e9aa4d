"""PiSSA: LoRA that starts from the weight's principal singular triplets and freezes only what is left of it.

Meng, Wang and Zhang 2024, arXiv:2404.02948; follows PEFT 0.21 (init_lora_weights="pissa"), layer and AdamW as in
`lora`: A = sqrt(S_R / s) V_R^T and B = U_R sqrt(S_R / s) with s = alpha / R, and W becomes W_res = W - s B A, so that
the layer still computes W x at the start. Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

What differs, and what to know:
* PEFT makes A and B fp32 whatever the model's dtype (their gradients and moments too); ours are in the parameter
  dtype, and W_res is what is left after the rounded A and B, so that the function stays the same up to one rounding.
* The decomposition is an exact fp32 SVD of every matrix, once; on a CPU that takes minutes for a 1b model. It allocates
  what `refresh_bytes` says of `repissa`. PEFT's "pissa_niter_K" approximates it.
* Singular vectors have no sign of their own. Neither B A nor AdamW's path depends on it.
* "Approximations may be all you need" prints W = W_res + B (equation 3); the A is lost there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from memprof.method import Footprint, Weight
from memprof.methods.lora import LoRA, LoRALinear
from memprof.methods.low_rank import spectral_

SVD_ITEMSIZE = 4
"""bytes: singular vectors are computed in fp32, in fp64 for fp64 weights"""


class PiSSALinear(LoRALinear):
    """y = W_res x + scaling B (A x), where W = W_res + scaling B A is what the layer had."""

    @torch.no_grad()
    def reset_adapter(self) -> None:
        """The principal part of W moves from the frozen weight to A and B: the same function, up to rounding."""
        spectral_(self.lora_A.weight, self.lora_B.weight, self.weight, self.scaling)
        self.weight.addmm_(self.lora_B.weight, self.lora_A.weight, alpha=-self.scaling)


def svd_bytes(weight: Weight) -> int:
    """The worst instant of `reset_adapter`, when the SVD returns; w = 4 bytes (8 for fp64), S = min(M, N):

    copy of W (M, N) w, for bf16 and fp16 only + U (M, S) w + singular values (S,) w + V^T (S, N) w

    LAPACK's and cuSOLVER's workspace, and their own copy of the matrix, are not in it.
    """
    side, w = min(weight.shape), max(SVD_ITEMSIZE, weight.itemsize)
    copy = w * weight.numel if weight.itemsize < w else 0
    return copy + w * side * (sum(weight.shape) + 1)


@dataclass(frozen=True, slots=True)
class PiSSA(LoRA):
    """LoRA's adapters, started from each weight's principal singular triplets."""

    name: ClassVar[str] = "pissa"
    paper: ClassVar[str] = "arXiv:2404.02948"

    def layer(self, linear: nn.Linear, rank: int) -> LoRALinear:
        return PiSSALinear(linear, rank, self.alpha)

    def formula(self, weight: Weight) -> Footprint:
        """LoRA's: W_res (M, N) frozen + A (R, N) + B (M, R); gradients of A and B; for each of the two step () fp32 +
        exp_avg + exp_avg_sq. All but the step in the parameter dtype. Saved per token: h (R,). The SVD is over before
        training begins.
        """
        return LoRA.formula(self, weight)
