"""DoRA: oracles are the dense m V / ||V|| by autograd, a case by hand, the base model and counted tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from memprof.method import STEP, Footprint, Role, Weight, named_weights
from memprof.methods.dora import DoRA, DoRALinear, ScaledProductBackward, row_norms
from memprof.methods.redora import ReDoRA
from tests.methods.models import tiny

TOKENS = 2 * 16
DTYPES = [torch.float32, torch.bfloat16]


def adapted(n_in: int = 7, n_out: int = 12, dtype: torch.dtype = torch.float64, bias: bool = True) -> DoRALinear:
    """A layer some way into its training."""
    torch.manual_seed(0)
    layer = DoRALinear(nn.Linear(n_in, n_out, bias=bias, dtype=dtype), 3, 6.0)
    nn.init.normal_(layer.lora_B.weight)
    nn.init.uniform_(layer.magnitude, 0.5, 2)
    return layer


def dense(layer: DoRALinear) -> Tensor:
    v = layer.weight + layer.scaling * layer.lora_B.weight @ layer.lora_A.weight
    weight: Tensor = layer.magnitude[:, None] * v / torch.linalg.vector_norm(v.detach(), dim=1, keepdim=True)
    return weight


class Allocated(TorchDispatchMode):
    """The largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and "view" not in func.tags and out._base is None:
            fresh = not any(isinstance(a, Tensor) and a.data_ptr() == out.data_ptr() for a in args)
            self.largest = max(self.largest, out.numel() if fresh else 0)
        return out


def test_a_row_by_hand() -> None:
    """W = (3, 4), A = (0, 1), B = 2, s = 4 / 1: V = (3, 12), ||V||^2 = 25 + 2 * 4 * 4 * 2 + 16 * 4 = 153; m = 10."""
    layer = DoRALinear(nn.Linear(2, 1, bias=False, dtype=torch.float64), 1, 4.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.lora_A.weight.copy_(torch.tensor([[0.0, 1.0]]))
        layer.lora_B.weight.fill_(2.0)
        layer.reset_magnitude()
        assert layer.magnitude.item() == 5 and layer.norm_sq.item() == 25
        layer.magnitude.fill_(10.0)
    norm = row_norms(layer.weight, layer.norm_sq, layer.lora_A.weight, layer.lora_B.weight, 4.0)
    assert norm.item() == pytest.approx(153**0.5, rel=1e-14)
    assert layer(torch.ones(1, 2, dtype=torch.float64)).item() == pytest.approx(150 / 153**0.5, rel=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_all_gradients_match_the_dense_weight_fp64(bias: bool) -> None:
    layer = adapted(bias=bias)
    x = torch.randn(2, 9, 7, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.linear(x, dense(layer), layer.bias)
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-13)
    leaves = [x, *layer.adapter(), *([layer.bias] if bias else [])]
    seed = torch.randn_like(expected)
    pairs = zip(torch.autograd.grad(y, leaves, seed), torch.autograd.grad(expected, leaves, seed), strict=True)
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)
    assert not layer.weight.requires_grad


def test_an_input_without_a_gradient_gets_none() -> None:
    layer = adapted()
    layer(torch.ones(3, 7, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in layer.adapter())


@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": True, "num_key_value_heads": 2}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_as_the_base_model_exactly(dtype: torch.dtype, shape: dict[str, Any]) -> None:
    model = tiny(dtype, **shape)
    ids = torch.randint(0, 64, (2, 16))
    base = model(ids, ids).detach()
    DoRA(rank=8).prepare(model)
    assert torch.equal(model(ids, ids).detach(), base)


def test_no_tensor_as_large_as_the_weight_is_made_in_a_step() -> None:
    layer = adapted(200, 300, torch.float32)
    optimizer = torch.optim.AdamW(layer.adapter(), foreach=False)
    x = torch.randn(5, 200, requires_grad=True)
    with Allocated() as seen:
        layer(x).square().sum().backward()
        optimizer.step()
    assert seen.largest == 5 * 300  # the output of five tokens; W has 60,000, A A^T 9, B 900


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_without_v_is_the_norm_of_v(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    w, a, b = torch.randn(64, 96).to(dtype), torch.randn(8, 96).to(dtype) / 10, torch.randn(64, 8).to(dtype)
    exact = (w.double() + 0.5 * b.double() @ a.double()).norm(dim=1)
    got = row_norms(w, w.float().square().sum(dim=1), a, b, 0.5)
    assert got.dtype == torch.float32
    drift = float(((got - exact) / exact).abs().max())
    assert drift < (1e-6 if dtype == torch.float32 else 2e-3), f"drift {drift:.1e} ({dtype})"


def test_a_row_of_zeros_stays_finite() -> None:
    layer = DoRALinear(nn.Linear(4, 3, bias=False), 2, 2.0)
    with torch.no_grad():
        layer.weight[1] = 0
        layer.reset_magnitude()
    y = layer(torch.ones(2, 4))
    y.sum().backward()
    assert y.isfinite().all() and not y[:, 1].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.adapter())


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_the_parameters() -> None:
    layer = adapted(12, 10, torch.float32)
    x = torch.randn(4, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert [p.grad.dtype for p in layer.adapter() if p.grad is not None] == [torch.float32] * 3
    torch.testing.assert_close(y.float(), layer(x), rtol=0.03, atol=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formula_by_hand_and_what_autograd_saves(dtype: torch.dtype) -> None:
    e = dtype.itemsize
    q = Weight("model.layers.0.self_attn.q_proj.weight", Role.Q, (10, 12), 1, e)
    assert DoRA(rank=3).formula(q) == Footprint(
        param=(120 + 3 * 22 + 10) * e + 10 * 4,
        frozen=120 * e + 10 * 4,
        grad=(3 * 22 + 10) * e,
        optimizer_state=2 * (3 * 22 + 10) * e + 3 * 4,
        parts={STEP: 3 * 4},
        trained=3,
        saved_per_token=(3 + 10) * e,
        saved=10 * e,
        backward=ScaledProductBackward(output=10 * e, hidden=3 * e),
    )
    layer = adapted(12, 10, dtype, bias=False)
    x = torch.randn(TOKENS, 12, dtype=dtype, requires_grad=True)
    own = {t.data_ptr() for t in (x, *layer.parameters())}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    assert sum(t.nbytes for at, t in saved.items() if at not in own) == TOKENS * 13 * e + 10 * e


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_merge_folds_direction_and_magnitude_into_the_weight(dtype: torch.dtype) -> None:
    layer = adapted(20, 30, dtype)
    limit = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    before, x = dense(layer).detach(), torch.randn(4, 20, dtype=dtype)
    y = layer(x).detach()
    layer.merge_()
    torch.testing.assert_close(layer.weight.detach(), before, rtol=limit, atol=limit)
    torch.testing.assert_close(layer(x).detach(), y, rtol=limit, atol=limit)
    assert not layer.lora_B.weight.any() and layer.lora_A.weight.abs().max() <= 20**-0.5
    norm = torch.linalg.vector_norm(layer.weight.detach(), dim=1, dtype=layer.norm_sq.dtype)
    assert torch.equal(layer.magnitude, norm.to(dtype))
    assert [p.requires_grad for p in (layer.weight, *layer.adapter())] == [False, True, True, True]


def test_redora_prunes_the_magnitudes_moments_too() -> None:
    model = tiny()
    optimizer = ReDoRA(rank=8, prune=1.0).prepare(model)
    ids = torch.randint(0, 64, (2, 16))
    for _ in range(2):
        model(ids, ids).backward()
        optimizer.step()
    optimizer.restart()
    for layer in optimizer.layers:
        assert isinstance(layer, DoRALinear) and len(layer.adapter()) == 3
        for p in layer.adapter():
            state = optimizer.state[p]
            assert not state["exp_avg"].any() and not state["exp_avg_sq"].any() and state["step"] == 2
    head = next(p for weight, p in named_weights(model) if weight.role == Role.HEAD)
    assert optimizer.state[head]["exp_avg"].any()
