"""MicroAdam by hand: what enters the window, what is fed back, bytes and calls; its equations: fidelity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.method import Role, Weight
from memprof.methods.microadam import MicroAdam, MicroAdamOptimizer

METHOD = MicroAdam(density=0.25, window=2, block=8, quant_block=16, lr=0.1, betas=(0.5, 0.5), eps=1e-12)


def stepped(method: MicroAdam, start: Tensor, grads: list[Tensor]) -> tuple[Tensor, MicroAdamOptimizer]:
    """A model's only weight after one step for each gradient."""
    model = nn.Module()
    model.q_proj = nn.Linear(1, 1, bias=False)
    model.q_proj.weight = nn.Parameter(start.clone())
    optimizer = method.prepare(model)
    for grad in grads:
        model.q_proj.weight.grad = grad.clone()
        optimizer.step()
        assert torch.equal(model.q_proj.weight.grad, grad), "the gradient is lost"
    return model.q_proj.weight.detach(), optimizer


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_three_steps_by_hand() -> None:
    """Two of eight enter. The rest is exact in 16 steps from 0 to 15, comes back, and grows until it is among the
    largest; Adam's sums are over two rows, so that in step 3 the first is forgotten."""
    grad = row(0, 15, 32, 64, 8, 4, 2, 1)
    w, optimizer = stepped(METHOD, torch.zeros(1, 8, dtype=torch.float64), [grad])
    (state,) = optimizer.state.values()
    torch.testing.assert_close(w, row(0, 0, -0.1, -0.1, 0, 0, 0, 0))
    assert sorted(state["places"][0].tolist()) == [2, 3]
    assert state["least"].item() == 0 and state["largest"].item() == 15
    assert state["error"].tolist() == [0x0F, 0x00, 0x84, 0x21]

    quiet = row(0, 15, 0, 0, 7, 0, 0, 0)
    w, optimizer = stepped(METHOD, torch.zeros(1, 8, dtype=torch.float64), [grad, quiet])
    (state,) = optimizer.state.values()
    assert sorted(zip(state["places"][1].tolist(), state["values"][1].tolist(), strict=True)) == [(1, 30), (4, 15)]
    aged = (0.25 / 0.75) / (0.25 / 0.75) ** 0.5  # m / sqrt(v), of what came a step ago; of what came now twice as deep
    fresh = (0.5 / 0.75) / (0.5 / 0.75) ** 0.5
    torch.testing.assert_close(w, row(0, -0.1 * fresh, -0.1 - 0.1 * aged, -0.1 - 0.1 * aged, -0.1 * fresh, 0, 0, 0))

    before = w
    w, _ = stepped(METHOD, torch.zeros(1, 8, dtype=torch.float64), [grad, quiet, torch.zeros_like(quiet)])
    assert torch.equal(w[0, 2:4], before[0, 2:4])


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 7), (4, 16), (9, 40)])
def test_pieces_change_nothing(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    w, grads = torch.randn(shape), [torch.randn(shape) for _ in range(5)]
    whole, one = stepped(dataclasses.replace(METHOD, piece=10_000), w, grads)
    parts, other = stepped(dataclasses.replace(METHOD, piece=32), w, grads)
    assert torch.equal(whole, parts)
    (state,), (cut) = one.state.values(), next(iter(other.state.values()))
    assert all(torch.equal(state[key], cut[key]) for key in ("error", "least", "largest"))


def test_nothing_is_lost_but_rounding() -> None:
    """Of a constant gradient every entry enters at last, so that all weights move although two of eight do a step."""
    grad = row(1, 1.1, 1.2, 1.3, -1, -1.1, -1.2, -1.3)
    w, _ = stepped(METHOD, torch.zeros(1, 8, dtype=torch.float64), [grad] * 12)
    assert (w.sign() == -grad.sign()).all()


def test_weights_that_are_stacked_train_as_they_do_alone() -> None:
    torch.manual_seed(0)
    grads = [torch.randn(3, 4, 16) for _ in range(4)]
    model = nn.ParameterList([nn.Parameter(torch.zeros(4, 16)) for _ in range(3)])
    optimizer = dataclasses.replace(METHOD, piece=64).prepare(model)
    for grad in grads:
        for p, g in zip(model, grad, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for i, p in enumerate(model):
        assert torch.equal(p, stepped(METHOD, torch.zeros(4, 16), [grad[i] for grad in grads])[0])


def test_bytes_by_hand() -> None:
    """0.9 bytes an element: 4 x 10 x 164 a block of 16384, half a byte of error, two bf16 a 65536."""
    weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (4096, 11008), 1, 2)
    method = MicroAdam().bind([weight])
    elements, blocks = 4096 * 11008, 4096 * 11008 // 16384
    state = method.formula(weight).optimizer_state
    assert state == 40 * 164 * blocks + elements // 2 + 4 * (blocks // 4)
    assert state / elements == pytest.approx(0.9, rel=1e-3)
    assert method.formula(weight).transient <= weight.nbytes


def test_states_have_their_shapes() -> None:
    model = build_model("9m", dtype=torch.bfloat16, num_layers=1, vocab_size=64)
    optimizer = MicroAdam().prepare(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    p = model.get_parameter("model.layers.0.mlp.down_proj.weight")  # 128 x 352: two blocks and 12288 more
    state = optimizer.state[p]
    assert state["places"].shape == state["values"].shape == (10, 2 * 164 + 123)
    assert (state["places"].dtype, state["values"].dtype) == (torch.int16, torch.bfloat16)
    assert state["error"].shape == (128 * 352 // 2,) and state["least"].shape == (1,)


def test_a_step_of_24_layers_makes_few_calls(launches: Callable[[Callable[[], object]], int]) -> None:
    model = build_model("350m", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = MicroAdam().prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    for _ in range(10):
        optimizer.step()
    assert launches(optimizer.step) < 6000  # 26 for each weight


def test_blocks_of_errors_are_whole_blocks() -> None:
    with pytest.raises(MemprofError, match="microadam: quant_block=100 must be an even multiple of block=64"):
        MicroAdam(block=64, quant_block=100)
    with pytest.raises(MemprofError, match="must be an even multiple"):
        MicroAdam(block=3, quant_block=9)
    with pytest.raises(MemprofError, match="block=32769 is out of range"):
        MicroAdam(block=2**15 + 1)
