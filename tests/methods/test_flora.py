"""Flora's compression by hand, which weights it takes, its bytes; equations and authors: fidelity."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from memprof.errors import MemprofError
from memprof.ledger import Ledger
from memprof.method import Role, Weight, named_weights
from memprof.methods.adafactor import Adafactor
from memprof.methods.flora import Flora, average_compressed_, is_compressed, projector
from memprof.methods.parts.random_projection import next_seed
from tests.methods.models import set_meta_gradients, tiny
from tests.methods.subspaces import set_gradients

METHOD = Flora(rank=8, update_gap=3, lr=0.05, weight_decay=0.1)
SHAPES = [(12, 7), (7, 12), (9, 9)]
DTYPES = [torch.float32, torch.bfloat16]


def up(m_LR: Tensor, p_SR: Tensor, shape: tuple[int, int]) -> Tensor:
    full_LS = m_LR @ p_SR.T
    return full_LS if shape[0] >= shape[1] else full_LS.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resample", [False, True])
def test_average_and_moment_by_the_papers_algorithm(shape: tuple[int, int], resample: bool) -> None:
    w, raw, m = torch.zeros(shape), torch.randn(shape), torch.randn(max(shape), 3)
    state = {"exp_avg": m.clone(), "seed": 5}
    update = raw.clone()
    average_compressed_(update, w, state, beta1=0.75, resample=resample)
    old, new = projector(w, 5, 3), projector(w, next_seed(5) if resample else 5, 3)
    full = up(m, old, shape)
    torch.testing.assert_close(update, 0.75 * full + 0.25 * raw)
    tall = shape[0] >= shape[1]
    carried = (full if tall else full.T) @ new if resample else m
    torch.testing.assert_close(state["exp_avg"], 0.75 * carried + 0.25 * (raw if tall else raw.T) @ new)
    assert state["seed"] == (next_seed(5) if resample else 5)


def test_compression_keeps_a_matrix_on_average() -> None:
    """E[P P^T] = I for entries of variance 1 / R: up(down(u)) is u, over many projectors."""
    w, u = torch.zeros(6, 6), torch.randn(6, 6)
    mean = sum((u @ p @ p.T for p in (projector(w, seed, 2) for seed in range(4000))), torch.zeros(6, 6)) / 4000
    torch.testing.assert_close(mean, u, rtol=0, atol=0.3)


@pytest.mark.parametrize(
    ("shape", "compressed"), [((64, 8), False), ((32, 8), True), ((8, 32), True), ((8, 33), False), ((7, 7), False)]
)
def test_matrices_from_rank_8_to_four_times_as_long_as_wide_are_compressed(
    shape: tuple[int, int], compressed: bool
) -> None:
    assert is_compressed(shape, 8) == compressed


def test_a_norm_is_not_compressed() -> None:
    assert not is_compressed((64,), 8)


def test_a_long_embedding_keeps_its_first_moment() -> None:
    """vocabulary 64 is half the hidden size of 128, so embedding and head are compressed here; of 1024 they are not."""
    for vocabulary, compressed in ((64, True), (1024, False)):
        shape = (vocabulary, 128)
        state = METHOD.formula(Weight("model.embed_tokens.weight", Role.EMBED, shape, 1, 2)).optimizer_state
        assert state == 4 * ((8 * max(shape) if compressed else vocabulary * 128) + vocabulary + 128)


def test_without_a_first_moment_flora_is_adafactor() -> None:
    ours, theirs = tiny(), tiny()
    method = dataclasses.replace(METHOD, beta1=None)
    a = method.prepare(ours)
    b = Adafactor(lr=0.05, weight_decay=0.1, scale_parameter=True).prepare(theirs)
    for t in range(4):
        for model, optimizer in ((ours, a), (theirs, b)):
            set_gradients(model, t)
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert list(method.refresh_steps(10)) == []


def test_projectors_change_at_every_third_step_and_when_asked() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)
    q = next(p for weight, p in named_weights(model) if weight.role == Role.Q)
    seeds = []
    for t in range(7):
        set_gradients(model, t)
        if t == 3:
            optimizer.request_refresh()
        optimizer.step()
        seeds.append(optimizer.state[q]["seed"])
    assert seeds[0] == seeds[1] == [weight.role for weight, _ in named_weights(model)].index(Role.Q) + 1
    assert [t for t in range(1, 7) if seeds[t] != seeds[t - 1]] == [2, 3, 5]
    assert list(METHOD.refresh_steps(7)) == [2, 5]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_states_are_fp32_at_least_and_the_formulas_bytes(dtype: torch.dtype) -> None:
    model = tiny(dtype)
    optimizer = METHOD.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        tensors = [value for value in optimizer.state[p].values() if isinstance(value, Tensor)]
        assert all(tensor.dtype == torch.promote_types(dtype, torch.float32) for tensor in tensors)
        assert sum(tensor.nbytes for tensor in tensors) == METHOD.formula(weight).optimizer_state, weight.name


def test_state_bytes_by_hand() -> None:
    """4096 x 11008, rank 1024: 4 * (1024 * 11008 + 4096 + 11008), whatever the weight's dtype."""
    for itemsize in (2, 4):
        weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (4096, 11008), 1, itemsize)
        assert Flora(rank=1024).formula(weight).optimizer_state == 4 * (1024 * 11008 + 4096 + 11008)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("rank", [8, 128])
@pytest.mark.parametrize("resample", [False, True])
def test_scratch_of_a_step_is_the_formulas_to_the_byte(dtype: torch.dtype, rank: int, resample: bool) -> None:
    method = dataclasses.replace(METHOD, rank=rank)
    model = tiny(dtype, "meta")
    optimizer = method.prepare(model)
    set_meta_gradients(model)
    optimizer.step()
    if resample:
        optimizer.request_refresh()
    with Ledger(model, optimizer) as ledger:
        optimizer.step()
    before = ledger.timeline.bytes_alive()[ledger.start - 1]
    costs = [method.formula(weight) for weight, _ in named_weights(model)]
    most = max(max(cost.transient, cost.refresh if resample else 0) for cost in costs)
    assert ledger.peak - before == most


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"flora: rank 129 is larger than model\.layers\.0\.self_attn\.q_proj"):
        Flora(rank=129).prepare(tiny(device="meta"))
