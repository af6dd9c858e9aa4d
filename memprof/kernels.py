"""RMSNorm and attention as a value handed to the model: the only thing in which a trace and a run may differ.

Each value saves for backward exactly what its kernels save. On meta tensors the fused CUDA norm is imitated, since
torch decomposes it there into pieces that the real kernel never allocates; the attention operators are called by
name, which gives them CUDA's shapes on meta tensors too and pins the backend on a GPU.
Letters: N tokens, C channels, B sequences, T positions, H heads, K key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memprof.errors import MemprofError

Norm = Callable[[Tensor, Tensor, float], Tensor]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the model calls for its norms and its attention, and what that attention costs."""

    name: str
    rms_norm: Norm
    """(x_NC, weight_C, eps) -> y_NC; saves x, weight and the fp32 reciprocal root mean square of each token"""
    attention: Attention
    """(q_BTHD, k_BTKD, v_BTKD) -> out_BTHD, causal"""
    expands_kv: bool
    """whether keys and values are copied out to all query heads before attention"""
    lse_multiple: int
    """the length of the saved log-sum-exp is rounded up to a multiple of this"""
    rng_bytes: int
    """what attention saves for dropout's random state, dropout or not, per layer"""
    norm_scratch: int = 0
    """fp32 tensors of the norm's shape that its backward holds at its worst"""


class _CpuRMSNorm(torch.autograd.Function):
    """RMSNorm from plain operators, in fp32, saving what the fused kernel saves."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        x32 = x_NC.float()
        rstd_N1 = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x_NC.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_NC, weight_C, rstd_N1)
        return torch.mul(x32, rstd_N1).mul_(weight_C).to(x_NC.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NC: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_NC, weight_C, rstd_N1 = ctx.saved_tensors
        grad32, normal = grad_NC.float(), torch.mul(x_NC, rstd_N1)
        grad_weight = torch.mul(grad32, normal).sum(0).to(weight_C.dtype) if ctx.needs_input_grad[1] else None
        scaled = torch.mul(grad32, weight_C)
        mean_N1 = torch.mul(scaled, normal).mean(-1, keepdim=True)
        grad_x = scaled.sub_(normal.mul_(mean_N1)).mul_(rstd_N1)
        return grad_x.to(x_NC.dtype), grad_weight, None


class _MetaFusedRMSNorm(torch.autograd.Function):
    """The memory of aten._fused_rms_norm on CUDA: output and reciprocal, no temporaries. For meta tensors alone."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        rstd_N1 = x_NC.new_empty((x_NC.shape[0], 1), dtype=torch.float32)
        ctx.save_for_backward(x_NC, weight_C, rstd_N1)
        return torch.empty_like(x_NC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NC: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x_NC, weight_C, _ = ctx.saved_tensors
        return torch.empty_like(x_NC), torch.empty_like(weight_C) if ctx.needs_input_grad[1] else None, None


def _cpu_rms_norm(x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    return _CpuRMSNorm.apply(x_NC, weight_C, eps)  # type: ignore[no-any-return, no-untyped-call]


def _cuda_rms_norm(x_NC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    if x_NC.is_meta:
        return _MetaFusedRMSNorm.apply(x_NC, weight_C, eps)  # type: ignore[no-any-return, no-untyped-call]
    return torch.nn.functional.rms_norm(x_NC, weight_C.shape, weight_C, eps)


def _expand_kv(kv_BTKD: Tensor, heads: int) -> Tensor:
    repeats = heads // kv_BTKD.shape[2]
    return kv_BTKD if repeats == 1 else kv_BTKD.repeat_interleave(repeats, dim=2)


def _cuda_flash(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p=0.0, is_causal=True)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def _cuda_efficient(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
    heads = q_BTHD.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, _expand_kv(k_BTKD, heads), _expand_kv(v_BTKD, heads)))
    out = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, True)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


def _cpu_flash(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)[0]
    return out.transpose(1, 2)  # type: ignore[no-any-return]


CUDA_FLASH = Kernels("cuda-flash", _cuda_rms_norm, _cuda_flash, expands_kv=False, lse_multiple=1, rng_bytes=24)
CUDA_EFFICIENT = Kernels(
    "cuda-efficient", _cuda_rms_norm, _cuda_efficient, expands_kv=True, lse_multiple=32, rng_bytes=0
)
CPU = Kernels("cpu", _cpu_rms_norm, _cpu_flash, expands_kv=False, lse_multiple=1, rng_bytes=0, norm_scratch=4)

KERNELS = {kernels.name: kernels for kernels in (CUDA_FLASH, CUDA_EFFICIENT, CPU)}


def get_kernels(name: str, dtype: torch.dtype) -> Kernels:
    """Kernels by their own name, or the ones that "cuda" or "cpu" means for a parameter dtype."""
    if name == "cuda":
        return CUDA_EFFICIENT if dtype == torch.float32 else CUDA_FLASH
    if name not in KERNELS:
        raise MemprofError(f"unknown kernels {name!r}; choose from cuda, {', '.join(KERNELS)}")
    if name == "cuda-flash" and dtype == torch.float32:
        raise MemprofError("kernels cuda-flash take bf16 or fp16, not fp32; use cuda-efficient")
    return KERNELS[name]
