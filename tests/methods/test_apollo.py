"""APOLLO by hand, its projectors from seeds, its limiter, its bytes and calls; equations and authors: fidelity."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.problem import gradient
from memprof.api import plan
from memprof.errors import MemprofError
from memprof.formula import formula
from memprof.llama import build_model
from memprof.method import Role, Weight, named_weights
from memprof.methods.apollo import Apollo, ApolloMini
from memprof.methods.parts.gradient_scaling import limited
from memprof.methods.parts.random_projection import draw_, next_seed
from memprof.trace import trace
from tests.methods.models import set_meta_gradients, stepped, tiny, weight_named
from tests.methods.subspaces import Calls, set_gradients

METHOD = Apollo(rank=8, update_gap=3, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]


# --- the update ------------------------------------------------------------------------------------------------------


def test_one_step_by_hand() -> None:
    """At step 1 Adam's normalised step is the gradient's sign: s is sqrt(R) over the channel's low-rank norm."""
    w, g = torch.randn(6, 4), torch.randn(6, 4)
    method = Apollo(rank=2, lr=0.1, scale=9.0, eps=1e-12, weight_decay=0.2)
    ours, optimizer = stepped(method, w, [g])
    state = next(iter(optimizer.state.values()))
    low = g @ state["basis"].T
    scale = math.sqrt(2) / low.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours, 0.98 * (w - 0.1 * 3 * scale * g))
    torch.testing.assert_close(state["exp_avg"], 0.1 * low)


def test_one_step_of_mini_by_hand() -> None:
    w, g = torch.randn(4, 6), torch.randn(4, 6)
    ours, optimizer = stepped(ApolloMini(lr=0.1, eps=1e-12), w, [g])
    low = next(iter(optimizer.state.values()))["basis"].T @ g
    torch.testing.assert_close(ours, w - 0.1 * math.sqrt(128) * math.sqrt(6) / low.norm() * g)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
def test_a_projector_drawn_anew_each_step_trains_as_one_that_is_kept(
    shape: tuple[int, int], dtype: torch.dtype, scale_type: str
) -> None:
    kept = dataclasses.replace(METHOD, rank=4, scale_type=scale_type)
    w = torch.randn(shape).to(dtype)
    grads = [gradient(shape, seed, dtype) for seed in range(8)]
    ours, optimizer = stepped(kept, w, grads)
    anew, other = stepped(dataclasses.replace(kept, store_projector=False), w, grads)
    assert torch.equal(ours, anew)
    states = [next(iter(o.state.values())) for o in (optimizer, other)]
    assert states[0]["seed"] == states[1]["seed"]
    assert "basis" not in states[1]


def test_gradients_stay_as_they_are() -> None:
    model = tiny()
    set_gradients(model, 0)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    METHOD.prepare(model).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True) if p.grad is not None)


# --- the limiter -----------------------------------------------------------------------------------------------------


def test_a_norm_grows_by_one_percent_at_most_and_falls_freely() -> None:
    limits = [torch.tensor(math.inf), torch.tensor(math.inf)]
    seen = []
    for norms in ([2.0, 5.0], [3.0, 4.0], [2.03, 1.0], [9.0, 0.0]):
        given = torch.tensor(norms)
        seen.append((given * limited(given, limits, 1.01)).tolist())
    expected = [[2.0, 5.0], [2.02, 4.0], [2.03, 1.0], [2.0503, 0.0]]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.stack(limits), torch.tensor([2.070803, 1.01e-8]), rtol=1e-6, atol=0)


def test_updates_of_one_gradient_twice_grow_by_one_percent() -> None:
    """Without bias correction Adam's step grows from 0.2 / sqrt(0.05) to 0.36 / sqrt(0.0975) signs: by 29 %."""
    w, g = torch.zeros(16, 16, dtype=torch.float64), gradient((16, 16), 0, torch.float64)
    size = [math.sqrt(1 - 0.95**t) / (1 - 0.8**t) for t in (1, 2)]
    for growth, seen in ((1.01, 1.01), (2.0, 0.36 / math.sqrt(0.0975) * math.sqrt(0.05) / 0.2)):
        method = dataclasses.replace(METHOD, weight_decay=0.0, growth=growth, eps=1e-14)
        first, both = (stepped(method, w, [g] * steps)[0] for steps in (1, 2))
        ratio = ((both - first).norm() / size[1]) / (first.norm() / size[0])
        assert float(ratio) == pytest.approx(seen, rel=1e-6)


# --- the projectors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_projectors_have_variance_one_over_rank_and_belong_to_their_seed(dtype: torch.dtype) -> None:
    drawn = draw_(torch.empty(50, 2000, dtype=dtype), 3, 50)
    assert drawn.float().var().item() == pytest.approx(1 / 50, rel=0.02)
    assert torch.equal(drawn, draw_(torch.empty(50, 2000, dtype=dtype), 3, 50))
    assert not torch.equal(drawn, draw_(torch.empty(50, 2000, dtype=dtype), 4, 50))


def test_drawing_leaves_torchs_own_stream_alone() -> None:
    before = torch.get_rng_state()
    draw_(torch.empty(4, 4), next_seed(5), 4)
    assert torch.equal(before, torch.get_rng_state())


def test_every_matrix_has_a_seed_of_its_own_which_moves_on_at_each_refresh() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)
    seen = []
    for t in range(6):
        set_gradients(model, t)
        if t == 4:
            optimizer.request_refresh()
        optimizer.step()
        seen.append([optimizer.state[p]["seed"] for weight, p in named_weights(model) if weight.is_matrix])
    assert seen[0] == list(range(6, 13))  # after embedding, two norms, last norm and head
    assert seen[0] == seen[1] == seen[2]
    assert seen[3] == [next_seed(seed) for seed in seen[2]]
    assert seen[4] == [next_seed(seed) for seed in seen[3]]
    assert seen[5] == seen[4]


# --- bytes and calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("store", [True, False])
def test_states_have_their_shapes_and_the_formulas_bytes(dtype: torch.dtype, store: bool) -> None:
    model = tiny(dtype)
    method = dataclasses.replace(METHOD, store_projector=store)
    optimizer = method.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if weight.is_matrix:
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (max(p.shape), 8)
            assert (state["limit"].shape, state["limit"].dtype) == ((), torch.float32)
            assert ("basis" in state) == store
        held = sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())
        assert held == method.formula(weight).optimizer_state, weight.name


def test_state_bytes_by_hand() -> None:
    """4096 x 11008, rank 1024, bf16; the papers' 2 n r + 2 is 2 bytes less than without P: the limit is fp32, and
    the seed is the host's."""
    weight = Weight("model.layers.0.mlp.down_proj.weight", Role.DOWN, (4096, 11008), 1, 2)
    method = Apollo(rank=1024)
    assert method.formula(weight).optimizer_state == 2 * 1024 * (4096 + 2 * 11008) + 4
    assert dataclasses.replace(method, store_projector=False).formula(weight).optimizer_state == 4 * 1024 * 11008 + 4
    assert ApolloMini(store_projector=False).formula(weight).optimizer_state == 4 * 11008 + 4


@pytest.mark.parametrize(
    "fields", [{"store_projector": False}, {"projection": "svd"}, {"scale_type": "tensor"}], ids=lambda f: next(iter(f))
)
def test_formula_is_the_trace_whatever_is_chosen(fields: dict[str, Any]) -> None:
    for rank, dtype, layers in ((None, "bf16", 3), (1, "fp32", 1), (128, "bf16", 1)):
        method = Apollo(rank=rank, **fields)
        case = plan(["9m"], [method], dtype=dtype, batch_size=1, seq_len=8, vocab_size=64, num_layers=layers)[0]
        predicted, seen = formula(case), trace(case)
        for key in ("param", "optimizer_state", "peak", "peak_by_category", "refresh_peak"):
            assert getattr(predicted, key) == getattr(seen, key), key


@pytest.mark.parametrize(("method", "limit"), [(Apollo(), 600), (ApolloMini(), 400)])
def test_a_step_of_24_layers_makes_few_calls(method: Apollo, limit: int) -> None:
    llama = build_model("350m", dtype=torch.bfloat16, device="meta", kernels="cuda")
    optimizer = method.prepare(llama)
    set_meta_gradients(llama)
    optimizer.step()
    with Calls() as calls:  # type: ignore[no-untyped-call]
        optimizer.step()
    assert calls.seen < limit


# --- errors and edges ------------------------------------------------------------------------------------------------


def test_a_seed_gives_no_singular_vectors() -> None:
    with pytest.raises(MemprofError, match="apollo-mini: store_projector=false needs projection=random"):
        ApolloMini(projection="svd", store_projector=False)


def test_a_rank_larger_than_a_side_names_the_weight() -> None:
    with pytest.raises(MemprofError, match=r"rank 129 is larger than model\.layers\.0\.self_attn\.q_proj\.weight"):
        Apollo(rank=129).prepare(tiny(device="meta"))


@pytest.mark.parametrize("projection", ["random", "svd"])
def test_a_weight_whose_first_gradient_comes_late_gets_a_projector_then(projection: str) -> None:
    model = tiny()
    optimizer = dataclasses.replace(METHOD, projection=projection).prepare(model)
    late: nn.Parameter = weight_named(model, "q_proj.weight")
    for seed in range(2):
        set_gradients(model, seed)
        if seed == 0:
            late.grad = None
        optimizer.step()
        assert (late in optimizer.state) == (seed == 1)
    assert optimizer.state[late]["basis"].abs().sum() > 0
