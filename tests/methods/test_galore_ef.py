"""GaLore with error feedback: two steps by hand, and what the residual is and is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.method import Role, Weight
from memprof.methods.galore import GaLore
from memprof.methods.galore_ef import GaLoreDynamicsEF, GaLoreEF
from tests.methods.models import stepped, the_state


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def test_two_steps_by_hand() -> None:
    """Rank 1 of diag(3, 2): the first axis; 2 is left over, half of it comes back, and with 2.5 turns the subspace.

    Step 1 moves the first axis by lr and leaves S = diag(0, 2). Step 2 sees diag(3, 2.5 + 1), whose top is the second
    axis, moves that by lr and leaves diag(3, 0). GaLore moves the first axis twice.
    """
    method = GaLoreEF(rank=1, update_gap=1, feedback=0.5, scale=1.0, lr=0.1, betas=(0.0, 0.0), eps=1e-12)
    start = torch.zeros(2, 2, dtype=torch.float64)
    w, optimizer = stepped(method, start, [diagonal(3, 2)])
    torch.testing.assert_close(w, diagonal(-0.1, 0))
    torch.testing.assert_close(the_state(optimizer)["residual"], diagonal(0, 2))
    w, optimizer = stepped(method, start, [diagonal(3, 2), diagonal(3, 2.5)])
    torch.testing.assert_close(w, diagonal(-0.1, -0.1))
    torch.testing.assert_close(the_state(optimizer)["residual"], diagonal(3, 0))
    plain, _ = stepped(GaLore(rank=1, update_gap=1, scale=1.0, lr=0.1, betas=(0.0, 0.0), eps=1e-12), start,
                       [diagonal(3, 2), diagonal(3, 2.5)])  # fmt: skip
    torch.testing.assert_close(plain, diagonal(-0.2, 0))


@pytest.mark.parametrize("side", ["std", "full"])
@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_residual_is_what_lies_outside_of_the_subspace(shape: tuple[int, int], side: str) -> None:
    torch.manual_seed(0)
    grads = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    method = GaLoreEF(rank=3, update_gap=1, feedback=0.3, side=side)
    _, optimizer = stepped(method, torch.zeros(shape, dtype=torch.float64), grads)
    _, earlier = stepped(method, torch.zeros(shape, dtype=torch.float64), grads[:1])
    corrected = grads[1] + 0.3 * the_state(earlier)["residual"]
    u, s, vh = torch.linalg.svd(corrected, full_matrices=False)
    torch.testing.assert_close(the_state(optimizer)["residual"], u[:, 3:] * s[3:] @ vh[3:])


@pytest.mark.parametrize("method", [GaLoreEF, GaLoreDynamicsEF])
def test_no_feedback_is_galore_to_the_bit(method: type[GaLoreEF]) -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(12, 7), [torch.randn(12, 7) for _ in range(5)]
    ours, _ = stepped(method(rank=3, update_gap=5, feedback=0.0), start, grads)
    assert torch.equal(ours, stepped(GaLore(rank=3, update_gap=5), start, grads)[0])


def test_feedback_counts_at_a_refresh_only() -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(12, 7, dtype=torch.float64), [torch.randn(12, 7, dtype=torch.float64) for _ in range(5)]
    for steps, apart in ((3, False), (5, True)):
        ours, _ = stepped(GaLoreEF(rank=3, update_gap=3, feedback=1), start, grads[:steps])
        plain, _ = stepped(GaLore(rank=3, update_gap=3), start, grads[:steps])
        assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-12) != apart


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_residual_is_a_state_of_the_weights_own_shape_and_dtype(dtype: torch.dtype) -> None:
    model = build_model("9m", num_layers=1, vocab_size=64, dtype=dtype)
    optimizer = GaLoreEF(rank=8).prepare(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, weight in optimizer.weight_of.items():
        residual = optimizer.state[p].get("residual")
        assert (residual is not None) == weight.is_matrix
        if residual is not None:
            assert (residual.shape, residual.dtype) == (p.shape, p.dtype)


def test_bytes_by_hand() -> None:
    """1024 x 2736, rank 256, bf16: GaLore's 256 * (1024 + 2 * 2736) elements and 1024 * 2736 of residual."""
    weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (1024, 2736), 1, 2)
    expected = 2 * (256 * (1024 + 2 * 2736) + 1024 * 2736)
    assert GaLoreEF(rank=256).formula(weight).optimizer_state == expected == 8_929_280
    assert GaLoreDynamicsEF(rank=256).formula(weight).optimizer_state == expected


def test_the_papers_weights_are_the_defaults_and_bounds_hold() -> None:
    assert (GaLoreEF().feedback, GaLoreDynamicsEF().feedback) == (0.1, 0.2)
    with pytest.raises(MemprofError, match="galore-ef: feedback=1.5 is out of range"):
        GaLoreEF(feedback=1.5)
