"""Fira by hand, its norm by Pythagoras beside the rest itself, its bytes; equations and authors: fidelity."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fidelity.problem import gradient
from memprof.errors import MemprofError
from memprof.ledger import Ledger
from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.fira import Fira
from memprof.methods.galore import GaLore
from tests.methods.models import one_matrix, set_meta_gradients, stepped, tiny
from tests.methods.subspaces import Calls, set_gradients

METHOD = Fira(rank=4, update_gap=3, lr=0.01, betas=(0.8, 0.95), eps=1e-6)
SHAPES = {"tall": (12, 7), "wide": (7, 12), "square": (9, 9)}
DTYPES = [torch.float32, torch.bfloat16]
FREE = 1e6
"""a growth that never limits"""


# --- the update ------------------------------------------------------------------------------------------------------


def test_one_step_by_hand() -> None:
    """G = diag(3, 1), rank 1: Adam's step is 1 on the first axis; the second channel has nothing inside and s = 0."""
    w, optimizer = stepped(
        Fira(rank=1, lr=0.1, weight_decay=0.2, eps=1e-12),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        [torch.tensor([[3.0, 0.0], [0.0, 1.0]])],
    )
    torch.testing.assert_close(w, 0.98 * torch.tensor([[0.9, 2.0], [3.0, 4.0]]))
    state = next(iter(optimizer.state.values()))
    torch.testing.assert_close(state["basis"], torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(state["exp_avg"], torch.tensor([[0.3], [0.0]]))


def test_what_the_subspace_leaves_out_is_scaled_by_channel() -> None:
    """Row (3, 1) has 3 inside, of which Adam makes 1: its rest (0, 1) counts a third."""
    g = torch.tensor([[3.0, 1.0], [30.0, -0.1]])
    basis = torch.tensor([[1.0, 0.0]])
    assert float(g[:, 0] @ g[:, 1]) == 0.0  # so that the axes are its singular vectors
    w, optimizer = stepped(Fira(rank=1, lr=0.1, eps=1e-12), torch.zeros(2, 2), [g])
    torch.testing.assert_close(next(iter(optimizer.state.values()))["basis"], basis)
    torch.testing.assert_close(w, -0.1 * torch.tensor([[1.0, 1 / 3], [1.0, -0.1 / 30]]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_at_full_rank_nothing_is_left_out_and_fira_is_galore(shape: tuple[int, int]) -> None:
    rank = min(shape)
    w, grads = torch.randn(shape, dtype=torch.float64), [gradient(shape, t, torch.float64) for t in range(7)]
    ours, _ = stepped(dataclasses.replace(METHOD, rank=rank), w, grads)
    galore, _ = stepped(GaLore(rank=rank, update_gap=3, scale=1.0, lr=0.01, betas=(0.8, 0.95), eps=1e-6), w, grads)
    torch.testing.assert_close(ours, galore, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.25, 1.0, 2.5])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.01)]
)
@pytest.mark.parametrize("shape", [(96, 64), (64, 96)])
def test_the_norm_by_pythagoras_is_the_rests_own(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float, scale: float
) -> None:
    """With 8 of 64 directions, which hold 97 % of the energy; a step's limit over its growth is the norm it took."""
    method = dataclasses.replace(METHOD, rank=8, scale=scale, growth=FREE)
    grads = [gradient(shape, t, dtype) for t in range(3)]
    _, optimizer = stepped(method, torch.zeros(shape, dtype=dtype), grads)
    state = next(iter(optimizer.state.values()))
    tall = shape[0] >= shape[1]
    g = (grads[-1] if tall else grads[-1].T).double()
    p = (state["basis"].T if tall else state["basis"]).double()
    low = g @ p
    step = state["exp_avg"].double() / (state["exp_avg_sq"].double().sqrt() + method.eps)
    rest = (g - scale * low @ p.T) * (step.norm(dim=1) / (low.norm(dim=1) + 1e-8)).unsqueeze(1)
    assert float(state["limit"]) / FREE - 1e-8 == pytest.approx(float(rest.norm()), rel=tolerance)


def test_gradients_stay_as_they_are() -> None:
    model = tiny()
    set_gradients(model, 0)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    METHOD.prepare(model).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True) if p.grad is not None)


# --- bytes and calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_have_their_shapes_and_the_formulas_bytes(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = METHOD.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        if weight.is_matrix:
            (m, n), r = weight.shape, 4
            assert state["basis"].shape == ((r, n) if m >= n else (m, r)), weight.name
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (max(m, n), r)
        held = sum(tensor.untyped_storage().nbytes() for tensor in state.values())
        assert held == METHOD.formula(weight).optimizer_state, weight.name


def test_state_bytes_are_galores_and_one_number() -> None:
    for shape in ((4096, 11008), (11008, 4096)):
        weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, shape, 1, 2)
        assert Fira(rank=1024).formula(weight).optimizer_state == 53_477_376 + 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_tensor_of_a_matrixs_size_is_made(dtype: torch.dtype) -> None:
    """The largest allocation of an ordinary step is the stacked low-rank scratch, below one matrix's size here."""
    model = one_matrix(torch.zeros(512, 512, dtype=dtype, device="meta"))
    optimizer = Fira(rank=8).prepare(model)
    set_meta_gradients(model)
    optimizer.step()
    with Ledger(model, optimizer) as ledger:
        optimizer.step()
    before = ledger.timeline.bytes_alive()[ledger.start - 1]
    weight, p = named_weights(model)[0]
    assert ledger.peak - before == Fira(rank=8).formula(weight).transient + 4 < p.nbytes // 8


def test_a_step_of_24_layers_makes_four_calls_a_matrix() -> None:
    """Project, the channels' norms, what is scaled, what is taken back: 672 for 168 matrices, and the groups'."""
    llama = build_model("350m", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = Fira().prepare(llama)
    set_meta_gradients(llama)
    optimizer.step()
    with Calls() as calls:  # type: ignore[no-untyped-call]
        optimizer.step()
    assert calls.seen < 820


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"fira: rank 129 is larger than model\.layers\.0\.self_attn\.q_proj"):
        Fira(rank=129).prepare(tiny(device="meta"))
