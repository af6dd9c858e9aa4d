"""Adafactor against the paper's equations in fp64 and by hand; `fidelity` holds it against torch and transformers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.adafactor import Adafactor
from tests.methods.models import gradients, peak_bytes, tiny, train

DTYPES = [torch.float32, torch.bfloat16]
VARIANTS = [
    Adafactor(lr=1e-2),
    Adafactor(lr=1e-2, beta1=0.9),
    Adafactor(lr=1e-2, weight_decay=0.1, clip_threshold=0.5),
    Adafactor(lr=1e-2, scale_parameter=True),
    Adafactor(lr=1e-2, beta1=0.8, weight_decay=0.1, scale_parameter=True, decay_rate=-0.5),
]
IDS = ["plain", "momentum", "decay", "scaled", "everything"]
WRAPPED_NUMBER = 12
"""On a CPU aten wraps a Python number of an in-place operation into a 0-d fp64 tensor and casts that to fp32."""


def set_gradients(model: nn.Module, seed: int) -> None:
    """Gradients of very different sizes along both sides, so that factors matter."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=generator)
        for dim in range(p.ndim):
            side = torch.rand(p.shape[dim], generator=generator).add_(0.1)
            grad *= side if dim == p.ndim - 1 else side.unsqueeze(-1)
        p.grad = grad.to(p.dtype)


def adafactor_by_the_paper(x: Tensor, grads: list[Tensor], method: Adafactor) -> Tensor:
    """Algorithms 4 and 5 of arXiv:1804.04235 with sums, as printed, in fp64; momentum and decay as in the code."""

    def rms(tensor: Tensor) -> Tensor:
        return tensor.square().mean().sqrt()

    rows, cols, v, m = torch.zeros(()), torch.zeros(()), torch.zeros_like(x), torch.zeros_like(x)
    for t, g in enumerate(grads, start=1):
        beta2 = 1 - t**method.decay_rate
        square = g**2 + method.eps1
        if x.ndim == 2:
            rows = beta2 * rows + (1 - beta2) * square.sum(1)
            cols = beta2 * cols + (1 - beta2) * square.sum(0)
            v = torch.outer(rows, cols) / rows.sum()
        else:
            v = beta2 * v + (1 - beta2) * square
        u = g / v.sqrt()
        alpha = method.lr * (max(method.eps2, rms(x).item()) if method.scale_parameter else 1.0)
        step = alpha * u / max(1.0, rms(u).item() / method.clip_threshold)
        if method.beta1 is not None:
            step = m = method.beta1 * m + (1 - method.beta1) * step
        x = x - alpha * method.weight_decay * x - step
    return x


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_steps_follow_the_paper(method: Adafactor) -> None:
    model = tiny(num_key_value_heads=2)  # tall (gate), wide (down, k, v), square (q) and 1-D (norms)
    start = [p.detach().double() for p in model.parameters()]
    grads: list[list[Tensor]] = [[] for _ in start]
    optimizer = method.prepare(model)
    for step in range(6):
        set_gradients(model, step)
        for p, seen in zip(model.parameters(), grads, strict=True):
            assert p.grad is not None
            seen.append(p.grad.double())
        optimizer.step()
    for p, x, seen in zip(model.parameters(), start, grads, strict=True):
        torch.testing.assert_close(p.double(), adafactor_by_the_paper(x, seen, method), rtol=1e-5, atol=1e-6)


def one_step(grad: list[Any], method: Adafactor) -> Tensor:
    """A weight of ones after one step."""
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.ones_like(torch.tensor(grad))))
    weight: nn.Parameter = module.weight  # type: ignore[assignment]
    weight.grad = torch.tensor(grad)
    method.prepare(module).step()
    return weight.detach()


def test_a_rank_one_square_is_estimated_exactly() -> None:
    """g^2 = [[9, 16], [36, 64]] has rank one, so V = g^2, u = sign(g) and RMS(u) = 1."""
    stepped = one_step([[3.0, -4.0], [6.0, 8.0]], Adafactor(lr=0.1))
    torch.testing.assert_close(stepped, torch.tensor([[0.9, 1.1], [0.9, 0.9]]))


def test_clipping_by_hand() -> None:
    """g = 1 on the diagonal: rows and columns mean 1/2, V = 1/2, u = sqrt 2 on the diagonal, RMS(u) = 1, clipped to
    1/2."""
    stepped = one_step([[1.0, 0.0], [0.0, 1.0]], Adafactor(lr=0.1, clip_threshold=0.5))
    torch.testing.assert_close(stepped, torch.ones(2, 2) - 0.1 * 0.5**0.5 * torch.eye(2))


def test_momentum_averages_steps_that_carry_the_learning_rate() -> None:
    """exp_avg = (1 - 0.9) * lr * sign(g) for a vector: the first step is a tenth of the plain one."""
    torch.testing.assert_close(one_step([5.0, -2.0], Adafactor(lr=0.1, beta1=0.9)), torch.tensor([0.99, 1.01]))


def test_every_weight_decays_norms_too() -> None:
    """As in transformers: with no gradient to follow, a step only multiplies by 1 - lr * weight_decay."""
    for zeros in ([[0.0, 0.0]], [0.0, 0.0]):
        stepped = one_step(zeros, Adafactor(lr=0.1, weight_decay=0.5))
        torch.testing.assert_close(stepped, torch.full_like(stepped, 0.95))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", VARIANTS[:2], ids=IDS[:2])
def test_states_are_fp32_and_the_formula_is_their_bytes(method: Adafactor, dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = method.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        shapes = {"exp_avg": weight.shape} if method.beta1 is not None else {}
        if p.ndim == 2:
            shapes |= {"exp_avg_sq_row": weight.shape[:1], "exp_avg_sq_col": weight.shape[1:]}
        else:
            shapes |= {"exp_avg_sq": weight.shape}
        state = optimizer.state[p]
        assert {key: tuple(tensor.shape) for key, tensor in state.items()} == shapes, weight.name
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}, weight.name
        footprint = method.formula(weight)
        assert footprint.optimizer_state == sum(tensor.untyped_storage().nbytes() for tensor in state.values())
        assert (footprint.param, footprint.grad) == (p.nbytes, p.nbytes)


def test_formula_by_hand() -> None:
    gate = Weight("gate", Role.GATE, (11008, 4096), 1, 2)
    assert Adafactor().formula(gate).optimizer_state == 4 * (11008 + 4096)
    assert Adafactor(beta1=0.9).formula(gate).optimizer_state == 4 * (11008 * 4096 + 11008 + 4096)
    assert Adafactor().formula(gate).transient == 4 * (2 * 11008 * 4096 + 11008)
    gate32 = Weight("gate", Role.GATE, (11008, 4096), 1, 4)
    assert Adafactor().formula(gate32).transient == 4 * (11008 * 4096 + 2 * 11008 + 1)
    assert Adafactor(beta1=0.9).formula(gate).transient == Adafactor().formula(gate32).transient
    assert Adafactor().formula(Weight("norm", Role.NORM, (4096,), 1, 2)).transient == 4 * (2 * 4096 + 1)


def step_of_one(shape: tuple[int, ...], method: Adafactor, dtype: torch.dtype) -> tuple[int, int]:
    """Peak of a second step over one weight of `shape`, as allocated and by the formula."""
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.randn(shape).to(dtype)))
    weight: nn.Parameter = module.weight  # type: ignore[assignment]
    weight.grad = torch.randn(shape).to(dtype)
    optimizer = method.prepare(module)
    optimizer.step()
    (named, _), *_ = named_weights(module)
    return peak_bytes(optimizer.step), method.formula(named).transient


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
@pytest.mark.parametrize("shape", [(96, 40), (40, 96), (64, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_transient_of_a_matrix_is_what_torch_allocates(
    shape: tuple[int, ...], method: Adafactor, dtype: torch.dtype
) -> None:
    allocated, formula = step_of_one(shape, method, dtype)
    assert allocated == formula


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_transient_of_a_norm_is_what_torch_allocates(method: Adafactor) -> None:
    allocated, formula = step_of_one((64,), method, torch.float32)
    assert 0 <= allocated - formula <= WRAPPED_NUMBER


def test_transient_of_a_model_is_that_of_its_largest_weight() -> None:
    model, method = tiny(), VARIANTS[0]
    optimizer = method.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    assert peak_bytes(optimizer.step) == max(method.formula(weight).transient for weight, _ in named_weights(model))


def test_a_bf16_step_is_the_fp32_step_rounded_once() -> None:
    method = VARIANTS[-1]
    low, high = tiny(torch.bfloat16), tiny()
    set_gradients(low, 0)
    for p, q in zip(low.parameters(), high.parameters(), strict=True):
        assert p.grad is not None
        q.data, q.grad = p.detach().float(), p.grad.float()
    method.prepare(low).step()
    method.prepare(high).step()
    for p, q in zip(low.parameters(), high.parameters(), strict=True):
        assert torch.equal(p, q.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_seeded_runs_agree_bitwise(dtype: torch.dtype) -> None:
    a, b = tiny(dtype), tiny(dtype)
    train(a, VARIANTS[-1].prepare(a), 3)
    train(b, VARIANTS[-1].prepare(b), 3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dict_continues_the_run_with_fp32_states(dtype: torch.dtype) -> None:
    straight, stopped, resumed = tiny(dtype), tiny(dtype), tiny(dtype)
    whole, first, second = (VARIANTS[-1].prepare(model) for model in (straight, stopped, resumed))
    for step in range(4):
        set_gradients(straight, step)
        whole.step()
        if step == 2:
            resumed.load_state_dict(stopped.state_dict())
            second.load_state_dict(first.state_dict())
        model, optimizer = (stopped, first) if step < 2 else (resumed, second)
        set_gradients(model, step)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_weights_without_a_gradient_stay_and_have_no_state() -> None:
    model = tiny()
    optimizer = VARIANTS[0].prepare(model)
    optimizer.step()
    assert not optimizer.state
    before = model.lm_head.weight.detach().clone()
    set_gradients(model, 0)
    model.lm_head.weight.grad = None
    optimizer.step()
    assert torch.equal(model.lm_head.weight, before) and model.lm_head.weight not in optimizer.state


def test_closure_gives_the_loss_and_gradients_stay_as_they_were() -> None:
    model = tiny()
    optimizer = VARIANTS[0].prepare(model)

    def closure() -> float:
        set_gradients(model, 0)
        assert torch.is_grad_enabled()
        return 1.5

    assert optimizer.step(closure) == 1.5
    before = [grad.clone() for grad in gradients(model)]
    optimizer.step()
    assert all(torch.equal(g, h) for g, h in zip(before, gradients(model), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
def test_runs_on_meta_tensors_and_so_without_reading_any(method: Adafactor, dtype: torch.dtype) -> None:
    model = tiny(dtype, "meta")
    optimizer = method.prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    assert all(tensor.is_meta for state in optimizer.state.values() for tensor in state.values())


@pytest.mark.parametrize("method", VARIANTS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_one_shape_step_together_as_each_would_alone(method: Adafactor, dtype: torch.dtype) -> None:
    together, alone = tiny(dtype), tiny(dtype)
    one, many = method.prepare(alone), method.prepare(together)
    one.batches.limit = 0
    for step in range(3):
        for model, optimizer in ((together, many), (alone, one)):
            set_gradients(model, step)
            optimizer.step()
    for p, q in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5 if dtype == torch.float32 else 2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_of_24_layers_is_some_hundred_launches(
    dtype: torch.dtype, launches: Callable[[Callable[[], object]], int]
) -> None:
    """torch.optim.Adafactor makes 2288 calls, transformers' more."""
    model = build_model("350m", device="meta", dtype=dtype)
    optimizer = Adafactor().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert launches(optimizer.step) <= 450
