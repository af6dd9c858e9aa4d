"""AdamW against torch.optim.AdamW(fused=True), bit for bit, and against the paper's equations in fp64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import named_weights
from memprof.methods.adamw import AdamW

METHOD = AdamW(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
TORCH: dict[str, Any] = METHOD.hyperparameters()
DTYPES = [torch.float32, torch.bfloat16]


def tiny(dtype: torch.dtype = torch.float32, device: str = "cpu") -> LlamaForCausalLM:
    torch.manual_seed(0)
    return build_model("9m", dtype=dtype, device=device, num_layers=1, vocab_size=64)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimizer.step()


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), f"{name} differs by {(p - q).abs().max().item():.3e} ({p.dtype})"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_step_is_torch_fused_adamw_bit_for_bit(dtype: torch.dtype) -> None:
    ours, theirs = tiny(dtype), tiny(dtype)
    optimizer, reference = METHOD.prepare(ours), torch.optim.AdamW(theirs.parameters(), fused=True, **TORCH)
    for step in range(5):
        advance(ours, optimizer, range(step, step + 1))
        advance(theirs, reference, range(step, step + 1))
        assert_same_weights(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_are_torchs_and_the_formula_is_their_bytes(dtype: torch.dtype) -> None:
    ours, theirs = tiny(dtype), tiny(dtype)
    optimizer, reference = METHOD.prepare(ours), torch.optim.AdamW(theirs.parameters(), fused=True, **TORCH)
    advance(ours, optimizer, range(1))
    advance(theirs, reference, range(1))
    for (weight, p), q in zip(named_weights(ours), theirs.parameters(), strict=True):
        mine, torchs = optimizer.state[p], reference.state[q]
        assert list(mine) == list(torchs)
        assert all((mine[key].dtype, mine[key].shape) == (torchs[key].dtype, torchs[key].shape) for key in mine)
        footprint = METHOD.formula(weight)
        assert footprint.optimizer_state == sum(tensor.nbytes for tensor in torchs.values()), weight.name
        assert (footprint.param, footprint.grad, footprint.transient) == (p.nbytes, p.nbytes, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dict_continues_in_torch_and_back(dtype: torch.dtype) -> None:
    ours, theirs, back = tiny(dtype), tiny(dtype), tiny(dtype)
    first = METHOD.prepare(ours)
    advance(ours, first, range(3))
    theirs.load_state_dict(ours.state_dict())
    second = torch.optim.AdamW(theirs.parameters(), lr=1.0)
    second.load_state_dict(first.state_dict())
    second.param_groups[0]["fused"] = True  # which kernel to run is torch's own flag, not ours to save
    advance(theirs, second, range(3, 5))
    back.load_state_dict(theirs.state_dict())
    third = METHOD.prepare(back)
    third.load_state_dict(second.state_dict())
    advance(back, third, range(5, 7))

    straight = tiny(dtype)
    advance(straight, METHOD.prepare(straight), range(7))
    assert_same_weights(straight, back)


def adamw_by_the_paper(w: Tensor, grads: list[Tensor]) -> Tensor:
    """Algorithm 2 of arXiv:1711.05101 with decay lr * weight_decay, in fp64."""
    (beta1, beta2), m, v = METHOD.betas, torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - METHOD.lr * (m_hat / (v_hat.sqrt() + METHOD.eps) + METHOD.weight_decay * w)
    return w


def test_step_follows_the_paper() -> None:
    model = tiny()
    start = [p.detach().double() for p in model.parameters()]
    grads: list[list[Tensor]] = [[] for _ in start]
    optimizer = METHOD.prepare(model)
    for step in range(6):
        set_gradients(model, step)
        for p, seen in zip(model.parameters(), grads, strict=True):
            assert p.grad is not None
            seen.append(p.grad.double())
        optimizer.step()
    for p, w, seen in zip(model.parameters(), start, grads, strict=True):
        torch.testing.assert_close(p.double(), adamw_by_the_paper(w, seen), rtol=1e-5, atol=1e-6)


def test_one_weight_by_hand() -> None:
    """First step: m_hat = g, v_hat = g^2, so the step is lr * sign(g) beside the decay lr * weight_decay * w."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    layer.weight.grad = torch.tensor([[4.0, -0.5]])
    AdamW(lr=0.1, eps=1e-12, weight_decay=0.5).prepare(layer).step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[1 - 0.05 - 0.1, -2 + 0.1 + 0.1]]))


def test_weights_without_a_gradient_stay_and_have_no_state() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)
    before = model.lm_head.weight.detach().clone()
    set_gradients(model, 0)
    model.lm_head.weight.grad = None
    optimizer.step()
    assert torch.equal(model.lm_head.weight, before) and model.lm_head.weight not in optimizer.state


def test_closure_runs_with_gradients_and_its_loss_comes_back() -> None:
    model = tiny()
    ids = torch.randint(0, 64, (1, 8))

    def closure() -> float:
        loss = model(ids, ids)
        loss.backward()
        return float(loss.detach())

    before = closure()
    model.zero_grad()
    assert METHOD.prepare(model).step(closure) == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_on_meta_tensors(dtype: torch.dtype) -> None:
    model = tiny(dtype, "meta")
    optimizer = METHOD.prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert all(tensor.is_meta for state in optimizer.state.values() for tensor in state.values())
