"""Norms and attention against torch's own, finite differences, and the bytes they say they save."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from memprof.errors import MemprofError
from memprof.kernels import CPU, CUDA_EFFICIENT, CUDA_FLASH, KERNELS, Kernels, get_kernels

EPS = 1e-6


def gradients(norm: Any, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = norm(x, weight)
    y.backward(grad)
    assert x.grad is not None and weight.grad is not None
    return y.detach(), x.grad, weight.grad


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_cpu_norm_is_torchs_in_fp64(scale: float, dtype: torch.dtype, most: float) -> None:
    """Rounding once at each border: half an ulp is 2**-9 in bf16, 2**-12 in fp16."""
    x, weight = (scale * torch.randn(33, 40)).to(dtype), (1 + 0.3 * torch.randn(40)).to(dtype)
    grad = torch.randn(33, 40).to(dtype)
    ours = gradients(lambda x, w: CPU.rms_norm(x, w, EPS), x, weight, grad)
    wide = (t.double() for t in (x, weight, grad))
    exact = gradients(lambda x, w: F.rms_norm(x, (40,), w, EPS), *wide)
    for name, a, b in zip(("output", "input gradient", "weight gradient"), ours, exact, strict=True):
        assert a.dtype == dtype
        assert relative(a, b) < most, f"{name}: off by {relative(a, b):.1e} (dtype {dtype}, scale {scale})"


@pytest.mark.parametrize("kernels", [CPU, CUDA_FLASH], ids=lambda kernels: kernels.name)
def test_norm_gradients_are_those_of_finite_differences(kernels: Kernels) -> None:
    """The CPU's works in fp32 inside, so its differences are taken over steps of 1e-2."""
    x, weight = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    inputs = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, w: kernels.rms_norm(x, w, 0.1), inputs, eps=1e-2, atol=3e-3, rtol=3e-3, nondet_tol=0
    )


def test_norm_of_zeros_has_finite_gradients() -> None:
    y, grad_x, grad_weight = gradients(
        lambda x, w: CPU.rms_norm(x, w, EPS), torch.zeros(2, 8), torch.ones(8), torch.ones(2, 8)
    )
    assert torch.equal(y, torch.zeros(2, 8)) and torch.equal(grad_weight, torch.zeros(8))
    torch.testing.assert_close(grad_x, torch.full((2, 8), EPS**-0.5))


@pytest.mark.parametrize("kernels", [CPU, CUDA_FLASH], ids=lambda kernels: kernels.name)
def test_a_frozen_norm_weight_gets_no_gradient(kernels: Kernels) -> None:
    for device in ("cpu", "meta"):
        x = torch.randn(3, 8, device=device, requires_grad=True)
        weight = torch.ones(8, device=device)
        kernels.rms_norm(x, weight, EPS).sum().backward()
        assert x.grad is not None and weight.grad is None


def saved_bytes(work: Any, inputs: list[Tensor]) -> tuple[int, Any]:
    """Bytes of the storages saved for backward beyond the inputs."""
    known = {t.untyped_storage()._cdata for t in inputs}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        on_host = tensor.ndim == 0 and tensor.dtype == torch.int64  # efficient attention's seed and offset, on CUDA
        if tensor.untyped_storage()._cdata not in known and not on_host:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = work()
    return sum(storage.nbytes() for storage in kept.values()), out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernels", "device"), [(CPU, "cpu"), (CPU, "meta"), (CUDA_FLASH, "meta")])
def test_norm_saves_one_fp32_number_a_token(kernels: Kernels, device: str, dtype: torch.dtype) -> None:
    x = torch.randn(21, 16, dtype=dtype, device=device, requires_grad=True)
    weight = torch.ones(16, dtype=dtype, device=device, requires_grad=True)
    saved, y = saved_bytes(lambda: kernels.rms_norm(x, weight, EPS), [x, weight])
    assert saved == 4 * 21
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


HEADS = [(4, 4), (4, 2), (4, 1)]


def qkv(heads: int, kv: int, dtype: torch.dtype = torch.float32, device: str = "cpu", t: int = 9) -> list[Tensor]:
    shapes = [(2, t, heads, 8), (2, t, kv, 8), (2, t, kv, 8)]
    return [torch.randn(shape, dtype=dtype, device=device).requires_grad_() for shape in shapes]


def math_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) v with a causal mask, key-value heads repeated for their group."""
    repeats, positions = q.shape[2] // k.shape[2], q.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=2) for x in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(torch.ones(positions, positions).tril() == 0, -math.inf)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)


@pytest.mark.parametrize(("heads", "kv"), HEADS)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_cpu_attention_is_math_attention(dtype: torch.dtype, most: float, heads: int, kv: int) -> None:
    """Output and gradients against fp64; one head of keys serving a group included."""
    ours = qkv(heads, kv, dtype)
    exact = [t.detach().double().requires_grad_() for t in ours]
    out, expected = CPU.attention(*ours), math_attention(*exact)
    grad = torch.randn_like(out)
    out.backward(grad)
    expected.backward(grad.double())
    assert relative(out, expected) < most, f"output off by {relative(out, expected):.1e}"
    for name, a, b in zip("qkv", ours, exact, strict=True):
        assert a.grad is not None and b.grad is not None
        assert relative(a.grad, b.grad) < most, f"gradient of {name} off by {relative(a.grad, b.grad):.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv"), HEADS)
@pytest.mark.parametrize("kernels", [CUDA_FLASH, CUDA_EFFICIENT], ids=lambda kernels: kernels.name)
def test_cuda_attention_is_math_attention(kernels: Kernels, heads: int, kv: int) -> None:
    dtype = torch.bfloat16 if kernels is CUDA_FLASH else torch.float32
    ours = [t.detach().cuda().requires_grad_() for t in qkv(heads, kv, dtype)]
    exact = [t.detach().cpu().double().requires_grad_() for t in ours]
    out, expected = kernels.attention(*ours), math_attention(*exact)
    out.sum().backward()
    expected.sum().backward()
    assert relative(out.cpu(), expected) < 2e-2
    for a, b in zip(ours, exact, strict=True):
        assert a.grad is not None and b.grad is not None
        assert relative(a.grad.cpu(), b.grad) < 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_norm_saves_and_computes_what_meta_says(dtype: torch.dtype) -> None:
    x = torch.randn(21, 64, dtype=dtype, device="cuda", requires_grad=True)
    weight = torch.ones(64, dtype=dtype, device="cuda", requires_grad=True)
    saved, y = saved_bytes(lambda: CUDA_FLASH.rms_norm(x, weight, EPS), [x, weight])
    assert saved == 4 * 21
    assert relative(y.cpu(), F.rms_norm(x.detach().cpu().double(), (64,), None, EPS)) < 5e-3


@pytest.mark.parametrize(("heads", "kv"), HEADS)
@pytest.mark.parametrize("positions", [9, 32, 33])
def test_attention_saves_what_its_kernels_say(positions: int, heads: int, kv: int) -> None:
    """Output, keys and values as they come or copied out to all heads, log-sum-exp, random state."""
    for kernels, dtype, device in (
        (CPU, torch.float32, "cpu"), (CPU, torch.bfloat16, "cpu"), (CPU, torch.bfloat16, "meta"),
        (CUDA_FLASH, torch.bfloat16, "meta"), (CUDA_FLASH, torch.float16, "meta"),
        (CUDA_EFFICIENT, torch.float32, "meta"),
    ):  # fmt: skip
        inputs = qkv(heads, kv, dtype, device, positions)
        saved, out = saved_bytes(lambda k=kernels, i=inputs: k.attention(*i), inputs)
        length = -(-positions // kernels.lse_multiple) * kernels.lse_multiple
        expanded = 2 * inputs[0].nbytes if kernels.expands_kv and heads != kv else 0
        assert saved == out.nbytes + expanded + 4 * 2 * heads * length + kernels.rng_bytes, (kernels.name, device)
        assert out.shape == inputs[0].shape


def test_kernels_by_name() -> None:
    assert get_kernels("cuda", torch.bfloat16) is get_kernels("cuda", torch.float16) is CUDA_FLASH
    assert get_kernels("cuda", torch.float32) is CUDA_EFFICIENT
    for name, kernels in KERNELS.items():
        assert get_kernels(name, torch.bfloat16) is kernels
    with pytest.raises(MemprofError, match="unknown kernels 'tpu'; choose from cuda, cuda-flash"):
        get_kernels("tpu", torch.bfloat16)
    with pytest.raises(MemprofError, match="use cuda-efficient"):
        get_kernels("cuda-flash", torch.float32)
