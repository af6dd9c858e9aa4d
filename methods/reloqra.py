"""ReLoQRa: LoRA that starts, and after each merge starts again, from the QR decomposition of the weight.

"Approximations may be all you need: Towards Pre-training LLMs with Low-Rank Decomposition and Optimizers" (NeurIPS
2024), section 4.1; no public code. Adapter and AdamW as in `lora`; merge, pruning of moments, climb of the learning
rate and warm start as in `restart`. Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

With W = Q_MS R_SN (reduced, S = min(M, N)): B = Q[:, :R] and A = R[:R, :]. Equation 5 prints W = W + Q[:, :r] R[:r, :]
"keeping the original weight frozen", without saying whether W is reduced by what the adapter takes over. Both readings:
* `preserving`, our default: W - s B A is frozen, s = alpha / R, so that the function stays the same, as PEFT's OLoRA
  has it (init_lora_weights="olora", arXiv:2406.01775; its adapters are fp32).
* `literal`: W stays as it is, so that W + s B A, the weight the model computes with, jumps at the start and at every
  reset. It fits the paper's "much higher matrix norm, likely resulting in better exploration through larger steps".
Memory is the same. What else to know:
* The QR is not pivoted: the "top R" are the first R columns of Q, not the strongest. They depend on the first R columns
  of W alone, so here only those are decomposed, and A = Q_R^T W, which is R[:R, :]: O(M N R) instead of O(M N S).
* For m < n the paper's Q (m x n) and R (n x n) do not exist; the reduced Q is (M, M) and R (M, N).
* A and B are rounded to the parameter dtype before `preserving` subtracts them, so nothing but one rounding is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Weight
from memprof.methods.lora import LoRALinear
from memprof.methods.relora import Restarting
from memprof.setting import setting

QR_ITEMSIZE = 4
"""bytes: the decomposition is made in fp32, in fp64 for fp64 weights"""


def qr_(a_RN: Tensor, b_MR: Tensor, weight_MN: Tensor) -> None:
    """Fill B with the first R columns of W's Q and A with the first R rows of its R."""
    wide_MN = weight_MN.to(torch.promote_types(weight_MN.dtype, torch.float32))
    q_MR = torch.linalg.qr(wide_MN[:, : a_RN.shape[0]]).Q
    b_MR.copy_(q_MR)
    a_RN.copy_(q_MR.T @ wide_MN)


def qr_bytes(weight: Weight, rank: int) -> int:
    """The worst instant of `qr_`, w = 4 bytes (8 for fp64):

    copy of W (M, N) w, for bf16 and fp16 only + Q (M, R) w + Q^T W (R, N) w

    LAPACK's and cuSOLVER's workspace is not in it.
    """
    w = max(QR_ITEMSIZE, weight.itemsize)
    copy = w * weight.numel if weight.itemsize < w else 0
    return copy + w * rank * sum(weight.shape)


class LiteralQRLinear(LoRALinear):
    """y = (W + scaling Q_R R_R) x at the start: what the adapter takes is added to W."""

    @torch.no_grad()
    def reset_adapter(self) -> None:
        qr_(self.lora_A.weight, self.lora_B.weight, self.weight)


class PreservingQRLinear(LoRALinear):
    """y = W x at the start: what the adapter takes is subtracted from the frozen weight."""

    @torch.no_grad()
    def reset_adapter(self) -> None:
        qr_(self.lora_A.weight, self.lora_B.weight, self.weight)
        self.weight.addmm_(self.lora_B.weight, self.lora_A.weight, alpha=-self.scaling)


READINGS: dict[str, type[LoRALinear]] = {"preserving": PreservingQRLinear, "literal": LiteralQRLinear}


@dataclass(frozen=True, slots=True)
class ReLoQRa(Restarting):
    """LoRA from a QR decomposition, with a merge and a new one every `reset_every` steps."""

    name: ClassVar[str] = "reloqra"
    paper: ClassVar[str] = "Approximations may be all you need"

    reset_every: int = setting(10_000, "steps between merges", least=1, papers="2500; 10000, its best")
    reading: str = setting(
        "preserving", "of equation 5: freeze W - s Q R, or W and so add s Q R to the model", choices=(*READINGS,)
    )

    def layer(self, linear: nn.Linear, rank: int) -> LoRALinear:
        return READINGS[self.reading](linear, rank, self.alpha)

    def merge_bytes(self, weight: Weight, rank: int) -> int:
        return qr_bytes(weight, rank)

    def formula(self, weight: Weight) -> Footprint:
        """LoRA's. At a merge, of one layer at a time and with w = 4 bytes (8 for fp64):
        copy of W (M, N) w, for bf16 and fp16 only + Q (M, R) w + Q^T W (R, N) w;
        or the scratch of pruning, where that is more (see `relora`). LAPACK's workspace is not in it.
        """
        return Restarting.formula(self, weight)
