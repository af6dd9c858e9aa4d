"""GaLore's states, scratch and calls, by hand, by allocation and by the ledger."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from memprof.errors import MemprofError
from memprof.ledger import Ledger
from memprof.llama import build_model
from memprof.method import Role, Weight, groups, named_weights
from memprof.methods.galore import GaLore
from memprof.methods.parts.projection import refresh_bytes
from tests.methods.models import one_matrix, set_meta_gradients, tiny
from tests.methods.subspaces import Calls, footprints, set_gradients

METHOD = GaLore(rank=8, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_have_the_papers_shapes_and_the_formulas_bytes_with_no_factor_kept_alive(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = METHOD.prepare(model)
    for seed in range(4):
        set_gradients(model, seed)
        optimizer.step()
    for weight, p, footprint in footprints(METHOD, model):
        state = optimizer.state[p]
        if weight.is_matrix:
            (m, n), r = weight.shape, 8
            assert state["basis"].shape == ((r, n) if m >= n else (m, r)), weight.name
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == ((m, r) if m >= n else (r, n)), weight.name
        else:
            assert set(state) == {"exp_avg", "exp_avg_sq"}
        assert all(tensor.dtype == dtype for tensor in state.values())
        held = sum(tensor.untyped_storage().nbytes() for tensor in state.values())
        assert held == footprint.optimizer_state, f"{weight.name} holds {held} B, formula {footprint.optimizer_state} B"
        assert (footprint.param, footprint.grad) == (p.nbytes, p.nbytes)


def test_state_bytes_by_hand() -> None:
    """4096 x 11008, rank 1024, bf16: basis 1024 * 4096 and two moments 1024 * 11008 are 53,477,376 B."""
    for shape in ((4096, 11008), (11008, 4096)):
        weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, shape, 1, 2)
        assert GaLore(rank=1024).formula(weight).optimizer_state == 2 * 1024 * (4096 + 2 * 11008) == 53_477_376


@pytest.mark.parametrize(("model", "rank", "side"), [("350m", None, "std"), ("1b", 512, "std"), ("350m", 256, "left")])
def test_a_step_of_24_layers_makes_fewer_than_400_calls(model: str, rank: int | None, side: str) -> None:
    llama = build_model(model, dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = GaLore(rank=rank, side=side).prepare(llama)
    set_meta_gradients(llama)
    optimizer.step()
    with Calls() as calls:  # type: ignore[no-untyped-call]
        optimizer.step()
    assert calls.seen < 400


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [8, 128])
def test_scratch_of_a_step_is_the_formulas_to_the_byte_and_never_above_the_largest_weight(
    dtype: torch.dtype, rank: int
) -> None:
    """Rank 128 is full rank: one weight's scratch is then twice the weight, and it stands alone."""
    method = dataclasses.replace(METHOD, rank=rank)
    model = tiny(dtype, "meta", layers=3)
    optimizer = method.prepare(model)
    set_meta_gradients(model)
    optimizer.step()
    with Ledger(model, optimizer) as ledger:
        optimizer.step()
    parts = [footprint for _, _, footprint in footprints(method, model)]
    limit = method.scratch_limit([weight for weight, _ in named_weights(model)])
    batches = groups([f for f in parts if f.transient], lambda f: f.transient, limit)
    scratch = max(sum(f.transient for f in batch) for batch in batches)
    steady = sum(f.param + f.grad + f.optimizer_state for f in parts)
    assert ledger.peak - steady == scratch + 4  # the step scalar
    assert scratch <= max(limit, max(f.transient for f in parts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("shape", [(48, 20), (20, 48), (32, 32)])
@pytest.mark.parametrize("rank", [1, 8, 20])
def test_refresh_bytes_are_the_ledgers(dtype: torch.dtype, device: str, shape: tuple[int, int], rank: int) -> None:
    model = one_matrix(torch.zeros(shape, dtype=dtype, device=device))
    weight, p = named_weights(model)[0]
    optimizer = GaLore(rank=rank).prepare(model)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    with Ledger(model, optimizer) as ledger, torch.no_grad():
        optimizer.refresh(p)
    steady = ledger.timeline.bytes_alive()[ledger.start - 1]
    assert ledger.peak - steady == refresh_bytes(weight, rank)


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"rank 129 is larger than model\.layers\.0\.self_attn\.q_proj\.weight"):
        GaLore(rank=129).prepare(tiny(device="meta"))


def test_formula_without_a_rank_says_so() -> None:
    weight, _ = named_weights(tiny(device="meta"))[1]
    with pytest.raises(MemprofError, match="galore: the default rank depends on the model"):
        GaLore().formula(weight)


def test_default_rank_is_a_quarter_of_the_smallest_side() -> None:
    assert GaLore().bind(weight for weight, _ in named_weights(tiny(device="meta"))).rank == 32
