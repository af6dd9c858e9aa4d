"""AdamW against torch.optim.AdamW(fused=True), bit for bit, and against the paper's equations in fp64."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof import optimizer as optimizers
from memprof.errors import MemprofError
from memprof.method import named_weights
from memprof.methods.adamw import AdamW
from tests.methods.models import set_normal_gradients, tiny

METHOD = AdamW(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
TORCH: dict[str, Any] = {key: value for key, value in METHOD.hyperparameters().items() if key != "state_dtype"}
DTYPES = [torch.float32, torch.bfloat16]


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_normal_gradients(model, step)
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
        set_normal_gradients(model, step)
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
    set_normal_gradients(model, 0)
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


# --- moments of a precision of their own ------------------------------------------------------------------------------


def apart(state_dtype: str) -> AdamW:
    return dataclasses.replace(METHOD, state_dtype=state_dtype)


@pytest.mark.parametrize(("dtype", "state_dtype"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_moments_of_the_weights_precision_are_the_default(dtype: torch.dtype, state_dtype: str) -> None:
    ours, plain = tiny(dtype), tiny(dtype)
    advance(ours, apart(state_dtype).prepare(ours), range(4))
    advance(plain, METHOD.prepare(plain), range(4))
    assert_same_weights(ours, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fp32_moments_are_torchs_on_an_fp32_copy_rounded_after_each_step(dtype: torch.dtype) -> None:
    ours, theirs = tiny(dtype), tiny(dtype)
    copy = tiny(dtype).float()
    optimizer, reference = apart("fp32").prepare(ours), torch.optim.AdamW(copy.parameters(), fused=True, **TORCH)
    for step in range(5):
        advance(ours, optimizer, range(step, step + 1))
        set_normal_gradients(theirs, step)
        for p, wide in zip(theirs.parameters(), copy.parameters(), strict=True):
            assert p.grad is not None
            wide.data, wide.grad = p.detach().float(), p.grad.float()
        reference.step()
        for p, wide in zip(theirs.parameters(), copy.parameters(), strict=True):
            p.data.copy_(wide)
        assert_same_weights(ours, theirs)


def test_bf16_moments_of_fp32_weights_are_torchs_rounded_after_each_step() -> None:
    ours, theirs = tiny(), tiny()
    optimizer, reference = apart("bf16").prepare(ours), torch.optim.AdamW(theirs.parameters(), fused=True, **TORCH)
    for step in range(5):
        advance(ours, optimizer, range(step, step + 1))
        advance(theirs, reference, range(step, step + 1))
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            for key in ("exp_avg", "exp_avg_sq"):
                rounded = reference.state[q][key].bfloat16()
                assert torch.equal(optimizer.state[p][key], rounded)
                reference.state[q][key].copy_(rounded)
        assert_same_weights(ours, theirs)


def test_a_weight_in_pieces_is_updated_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tiny(torch.bfloat16), tiny(torch.bfloat16)
    advance(whole, apart("fp32").prepare(whole), range(3))
    monkeypatch.setattr(optimizers, "PIECE", 1000)
    advance(cut, apart("fp32").prepare(cut), range(3))
    assert_same_weights(whole, cut)


@pytest.mark.parametrize(("dtype", "state_dtype"), [(torch.bfloat16, "fp32"), (torch.float32, "bf16")])
def test_moments_keep_their_precision_through_a_state_dict(dtype: torch.dtype, state_dtype: str) -> None:
    ours, back, straight = tiny(dtype), tiny(dtype), tiny(dtype)
    method = apart(state_dtype)
    first, second = method.prepare(ours), method.prepare(back)
    advance(ours, first, range(3))
    back.load_state_dict(ours.state_dict())
    second.load_state_dict(first.state_dict())
    advance(back, second, range(3, 5))
    advance(straight, method.prepare(straight), range(5))
    assert_same_weights(straight, back)
    for weight, p in named_weights(back):
        assert sum(t.nbytes for t in second.state[p].values()) == method.formula(weight).optimizer_state


def test_bytes_of_a_precision_apart_by_hand() -> None:
    """128 x 128 in bf16: fp32 moments are 2 * 4 * 16,384 B + 4, and the copies of weight and gradient as much again."""
    weight = next(w for w, _ in named_weights(tiny(torch.bfloat16, "meta")) if w.name.endswith("q_proj.weight"))
    footprint = apart("fp32").formula(weight)
    assert (footprint.optimizer_state, footprint.transient) == (131_072 + 4, 131_072)


def test_bf16_moments_of_fp16_weights_are_refused() -> None:
    with pytest.raises(MemprofError, match="state_dtype=bf16 does not go with fp16 weights; use fp32, or none"):
        apart("bf16").prepare(tiny(torch.float16, "meta"))


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(MemprofError, match="adamw: state_dtype='fp8' is unknown; choose from fp32, bf16"):
        apart("fp8")
