"""AdaMeM by hand, its limits and its bytes; the equations of our reading: fidelity."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from memprof.errors import MemprofError
from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.adafactor import Adafactor
from memprof.methods.adamem import AdaMeM
from memprof.methods.galore import GaLore
from tests.methods.models import stepped, the_state

METHOD = AdaMeM(rank=2, update_gap=2, lr=0.1)


def randoms(shape: tuple[int, int], count: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


def test_one_step_by_hand() -> None:
    """Of diag(9, 1) the subspace takes the 9 and leaves the 1. Adafactor makes either an entry of 1, of which momentum
    lets a tenth through at first."""
    grad = torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64))
    w, _ = stepped(dataclasses.replace(METHOD, rank=1), torch.zeros_like(grad), [grad])
    torch.testing.assert_close(w, torch.diag(torch.tensor([-0.01, -0.1], dtype=torch.float64)))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_the_move_is_that_of_two_adafactors(shape: tuple[int, int]) -> None:
    """One in the subspace with momentum, which is GaLore's, and one without on what is left."""
    start, grads = torch.zeros(shape, dtype=torch.float64), randoms(shape, 2)
    w, ours = stepped(METHOD, start, grads)
    inside = GaLore(rank=2, update_gap=2, scale=1.0, inner="adafactor", beta1=0.9, lr=0.1)
    in_subspace, theirs = stepped(inside, start, grads)
    basis = the_state(theirs)["basis"]
    onto = basis.T @ basis if shape[0] >= shape[1] else basis @ basis.T
    rests = [g - g @ onto if shape[0] >= shape[1] else g - onto @ g for g in grads]
    outside, _ = stepped(Adafactor(lr=0.1), start, rests)
    assert torch.equal(the_state(ours)["exp_avg"], the_state(theirs)["exp_avg"])
    torch.testing.assert_close(w, in_subspace + outside)


def test_momentum_is_kept_in_the_subspace_alone() -> None:
    model = build_model("9m", dtype=torch.bfloat16, num_layers=1, vocab_size=64)
    method = AdaMeM(rank=8)
    optimizer = method.prepare(model)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        assert ("exp_avg" in state) == weight.is_matrix
        if weight.is_matrix:
            assert state["exp_avg"].numel() == 8 * max(p.shape)
            assert {key: t.shape for key, t in state["residual"].items()} == {
                "exp_avg_sq_row": (p.shape[0],),
                "exp_avg_sq_col": (p.shape[1],),
            }


def test_bytes_by_hand() -> None:
    """4096 x 11008, rank 1024, bf16: basis, fp32 momentum, fp32 factors of both parts."""
    weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (4096, 11008), 1, 2)
    moments = 1024 * 11008 + (1024 + 11008) + (4096 + 11008)
    assert AdaMeM(rank=1024).formula(weight).optimizer_state == 2 * 1024 * 4096 + 4 * moments


def test_errors_name_the_method() -> None:
    with pytest.raises(MemprofError, match=r"adamem: rank 129 is larger than model\.layers\.0\.self_attn\.q_proj"):
        AdaMeM(rank=129).prepare(build_model("9m", device="meta", num_layers=1))
    with pytest.raises(MemprofError, match="adamem: the default rank depends on the model"):
        AdaMeM().formula(Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (8, 4), 1, 2))
