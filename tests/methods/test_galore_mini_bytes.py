"""GaLore-mini's states, scratch and launches, by hand, by allocation and by the ledger."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from memprof.api import plan
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.ledger import Ledger
from memprof.llama import build_model
from memprof.method import Role, Weight, groups, named_weights
from memprof.methods.galore import GaLore
from memprof.methods.galore_mini import GaLoreMini
from memprof.trace import trace
from tests.methods.models import one_matrix, set_meta_gradients, tiny
from tests.methods.subspaces import Launches, footprints, set_gradients

METHOD = GaLoreMini(rank=8, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("approach", [1, 2])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("model", "rank"), [("9m", 7), ("9m", 128), ("llama3-8b", 64)])
def test_formula_is_the_trace_in_the_other_approaches(model: str, rank: int, dtype: str, approach: int) -> None:
    """So few tokens that the peak is in the update; of llama3-8b, k has heads and is wide."""
    method = GaLoreMini(approach=approach, rank=rank)
    case = plan([model], [method], dtype=dtype, num_layers=2, vocab_size=64, batch_size=1, seq_len=4)[0]
    predicted, seen = formula(case), trace(case)
    assert predicted.peak_phase == "optimizer"
    for key in ("optimizer_state", "peak", "peak_by_category", "refresh_peak"):
        assert getattr(predicted, key) == getattr(seen, key), (dtype, key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_have_the_papers_shapes_and_the_formulas_bytes(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = METHOD.prepare(model)
    for seed in range(4):
        set_gradients(model, seed)
        optimizer.step()
    blocks_of = {Role.Q: 4, Role.K: 4, Role.NORM: 1}
    for weight, p, footprint in footprints(METHOD, model):
        state = optimizer.state[p]
        tensors = [value for value in state.values() if isinstance(value, Tensor)]
        if weight.is_matrix:
            (m, n), r = weight.shape, 8
            assert state["basis"].shape == ((r, n) if m >= n else (m, r)), weight.name
            assert state["exp_avg"].shape == ((m, r) if m >= n else (r, n)), weight.name
        else:
            assert state["exp_avg"].shape == p.shape and len(tensors) == 2
        assert state["vmean"].numel() == blocks_of.get(weight.role, weight.shape[0]), weight.name
        assert all(tensor.dtype == dtype for tensor in tensors)
        held = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
        assert held == footprint.optimizer_state, f"{weight.name} holds {held} B, formula {footprint.optimizer_state} B"
        assert (footprint.param, footprint.grad) == (p.nbytes, p.nbytes)


def test_savings_of_one_layer_are_the_papers_40_and_81_percent() -> None:
    """Section 3.2: four h x h and two h x 4h weights, h = 4096, r = 1024, v not counted: 18hr, 30hr and 24h^2."""
    h, r = 4096, 1024
    shapes = {
        Role.Q: (h, h),
        Role.K: (h, h),
        Role.V: (h, h),
        Role.O: (h, h),
        Role.UP: (4 * h, h),
        Role.DOWN: (h, 4 * h),
    }
    layer = [Weight(role.value, role, shape, 32, 1) for role, shape in shapes.items()]
    vmeans = sum(32 if weight.role in (Role.Q, Role.K) else weight.shape[0] for weight in layer)
    mini = sum(GaLoreMini(rank=r).formula(weight).optimizer_state for weight in layer) - vmeans
    full = sum(GaLore(rank=r).formula(weight).optimizer_state for weight in layer)
    adamw = 2 * sum(weight.numel for weight in layer)
    assert (mini, full, adamw) == (18 * h * r, 30 * h * r, 24 * h * h)
    assert (1 - mini / full, 1 - mini / adamw) == (0.4, 0.8125)


@pytest.mark.parametrize(
    ("approach", "model", "rank"), [(3, "350m", None), (3, "1b", 512), (1, "350m", 256), (2, "350m", 256)]
)
def test_a_step_of_24_layers_makes_three_launches_a_matrix_and_few_more(
    approach: int, model: str, rank: int | None
) -> None:
    """Two products and one norm a matrix; in approaches 1 and 2 up to two more for each of the 24 wide ones."""
    llama = build_model(model, dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = GaLoreMini(approach=approach, rank=rank).prepare(llama)
    set_meta_gradients(llama)
    optimizer.step()
    with Launches() as launches:  # type: ignore[no-untyped-call]
        optimizer.step()
    wide = {1: 24, 2: 48, 3: 0}[approach]
    assert launches.seen < 3 * 168 + wide + 100


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [8, 128])
def test_scratch_of_a_step_is_the_formulas_to_the_byte_and_never_above_the_largest_weight(
    dtype: torch.dtype, rank: int
) -> None:
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
    assert ledger.peak - steady == scratch
    assert scratch <= max(limit, max(f.transient for f in parts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("shape", [(48, 21), (21, 48), (33, 33)])
@pytest.mark.parametrize("rank", [1, 8, 21])
def test_refresh_bytes_are_the_ledgers(dtype: torch.dtype, device: str, shape: tuple[int, int], rank: int) -> None:
    model = one_matrix(torch.zeros(shape, dtype=dtype, device=device))
    weight, p = named_weights(model)[0]
    optimizer = GaLoreMini(rank=rank).prepare(model)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    with Ledger(model, optimizer) as ledger, torch.no_grad():
        optimizer._refresh(p, compare=True)
    steady = ledger.timeline.bytes_alive()[ledger.start - 1]
    assert ledger.peak - steady == GaLoreMini(rank=rank).formula(weight).refresh


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"rank 129 is larger than model\.layers\.0\.self_attn\.q_proj\.weight"):
        GaLoreMini(rank=129).prepare(tiny(device="meta"))


def test_formula_without_a_rank_says_so() -> None:
    weight, _ = named_weights(tiny(device="meta"))[1]
    with pytest.raises(MemprofError, match="galore-mini: the default rank depends on the model"):
        GaLoreMini().formula(weight)
