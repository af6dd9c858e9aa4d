"""GaLore-mini against the paper's approaches in fp64, Adam-mini at full rank, Q-GaLore's rule and hand-made cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.problem import gradient, signed
from memprof.method import named_weights
from memprof.methods.adam_mini import AdamMini
from memprof.methods.galore_mini import GaLoreMini
from memprof.methods.parts import galore_mini_optimizer
from memprof.methods.parts.galore_mini_optimizer import GaLoreMiniOptimizer
from memprof.methods.parts.lazy import LazyRefresh
from tests.methods.models import HEADS, one_matrix, set_meta_gradients, the_state, tiny, weight_named
from tests.methods.subspaces import refreshed_steps, set_gradients

METHOD = GaLoreMini(rank=8, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]


def train(method: GaLoreMini, model: nn.Module, grads: Sequence[Tensor]) -> GaLoreMiniOptimizer:
    """One step for each gradient on a model of one weight."""
    optimizer = method.prepare(model)
    p = next(model.parameters())
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return optimizer


def galore_mini_by_the_paper(w: Tensor, grads: Sequence[Tensor], blocks: int, method: GaLoreMini) -> Tensor:
    """Steps 1 to 7 of section 3.1, by SVD, with the full-size moment and divisor that the code never makes."""
    (beta1, beta2), tall = method.betas, w.shape[0] >= w.shape[1]
    m: Any = 0
    v: Any = 0
    gap, cosines, first = method.update_gap, [], None
    for t, g in enumerate(grads):
        v = beta2 * v + (1 - beta2) * (g**2).reshape(blocks, -1).mean(dim=1)
        if t % gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            p = signed((vh.T if tall else u)[:, : method.rank])
            if first is not None:
                cosines.append(float(first @ p[:, 0]))
                window = cosines[-method.queue_size :]
                if len(window) == method.queue_size and sum(window) / len(window) >= method.cos_threshold:
                    gap = int(gap * method.gamma)
            first = p[:, 0]
        m = beta1 * m + (1 - beta1) * (g @ p if tall else p.T @ g)
        full = (m @ p.T if tall else p @ m) / (1 - beta1 ** (t + 1))
        divisor = (v / (1 - beta2 ** (t + 1))).sqrt() + method.eps
        update = full / divisor.repeat_interleave(w.shape[0] // blocks)[:, None]
        w = (1 - method.lr * method.weight_decay) * w - method.lr * method.scale * update
    return w


# --- the update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 7), (9, 14), (9, 9)], ids=["tall", "wide", "square"])
@pytest.mark.parametrize(("name", "per_head"), [("q_proj", True), ("v_proj", False), ("down_proj", False)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_steps_over_refreshes_are_the_papers_approach_3(
    shape: tuple[int, int], name: str, per_head: bool, dtype: torch.dtype, tolerance: float
) -> None:
    method = dataclasses.replace(METHOD, rank=4)
    w = torch.randn(shape, dtype=torch.float64).to(dtype)
    grads = [gradient(shape, seed, dtype) for seed in range(11)]
    model = one_matrix(w, name)
    train(method, model, grads)
    blocks = HEADS if per_head else shape[0]
    truth = galore_mini_by_the_paper(w.double(), [g.double() for g in grads], blocks, method) - w.double()
    ours = next(model.parameters()).detach().double() - w.double()
    drift = float((ours - truth).norm() / truth.norm())
    assert drift < tolerance, f"the update drifts by {drift:.3e} > {tolerance:.0e} ({dtype}, {shape}, {name})"


def test_steps_with_a_growing_gap_are_the_papers() -> None:
    """Gradients that hardly turn: the gap doubles on the way, in the twin as in the code."""
    method = dataclasses.replace(METHOD, rank=2, update_gap=1, queue_size=3)
    base = gradient((9, 7), 0, torch.float64)
    grads = [base + 0.02 * gradient((9, 7), seed, torch.float64) for seed in range(12)]
    model = one_matrix(torch.zeros(9, 7, dtype=torch.float64))
    optimizer = train(method, model, grads)
    truth = galore_mini_by_the_paper(torch.zeros(9, 7, dtype=torch.float64), grads, HEADS, method)
    assert the_state(optimizer)["gap"] > 1
    torch.testing.assert_close(next(model.parameters()).detach(), truth, rtol=1e-8, atol=1e-10)


def test_one_step_by_hand() -> None:
    """G = diag(3, 1), rank 1, one row a block: M is 3 in the first axis, V is 9 / 2 and 1 / 2."""
    method = GaLoreMini(rank=1, scale=0.5, lr=0.1, weight_decay=0.2, eps=1e-12)
    model = one_matrix(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "v_proj")
    optimizer = train(method, model, [torch.diag(torch.tensor([3.0, 1.0]))])
    moved = torch.tensor([[0.1 * 0.5 * 3 / 4.5**0.5, 0.0], [0.0, 0.0]])
    truth = 0.98 * torch.tensor([[1.0, 2.0], [3.0, 4.0]]) - moved
    torch.testing.assert_close(next(model.parameters()).detach(), truth)
    torch.testing.assert_close(the_state(optimizer)["vmean"], torch.tensor([[0.0045], [0.0005]]))
    torch.testing.assert_close(the_state(optimizer)["exp_avg"], torch.tensor([[0.3], [0.0]]))


def test_full_rank_in_a_fixed_basis_is_adam_mini() -> None:
    """Without a loss in the projection the first moment is the full one, and the second is Adam-mini's by design."""
    ours, theirs = tiny(), tiny()
    method = GaLoreMini(rank=128, update_gap=1000, scale=1.0, weight_decay=0.1)
    optimizer = method.prepare(ours)
    reference = AdamMini(lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=0.1).prepare(theirs)
    for seed in range(6):
        for model in (ours, theirs):
            set_gradients(model, seed)
        optimizer.step()
        reference.step()
    for (weight, p), q in zip(named_weights(ours), theirs.parameters(), strict=True):
        drift = float((p - q).detach().abs().max())
        assert drift < 1e-5, f"{weight.name} is {drift:.3e} from Adam-mini"


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_seeded_runs_are_bitwise_equal(dtype: torch.dtype) -> None:
    def run() -> list[Tensor]:
        model = tiny(dtype)
        optimizer = METHOD.prepare(model)
        for seed in range(5):
            set_gradients(model, seed)
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_bf16_follows_fp32_to_its_rounding() -> None:
    shape, method = (63, 96), dataclasses.replace(METHOD, weight_decay=0.0)
    grads = [gradient(shape, seed, torch.bfloat16) for seed in range(5)]
    low, high = one_matrix(torch.zeros(shape, dtype=torch.bfloat16)), one_matrix(torch.zeros(shape))
    train(method, low, grads)
    train(method, high, [g.float() for g in grads])
    a, b = next(low.parameters()).detach().float(), next(high.parameters()).detach()
    drift = float((a - b).norm() / b.norm())
    assert drift < 0.05, f"bf16 drifts by {drift:.3e} from fp32"


def test_training_lowers_the_loss() -> None:
    model = tiny()
    optimizer = GaLoreMini(rank=32, update_gap=5).prepare(model)
    ids = torch.randint(0, 64, (2, 16))
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(ids, ids)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


def test_decay_is_decoupled_and_spares_norms() -> None:
    model = tiny()
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    METHOD.prepare(model).step()
    for p, w in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), w * (1 - METHOD.lr * METHOD.weight_decay) if p.ndim > 1 else w)


# --- the three approaches --------------------------------------------------------------------------------------------


def moved(approach: int, shape: tuple[int, int], grads: Sequence[Tensor], name: str = "q_proj") -> Tensor:
    model = one_matrix(torch.zeros(shape, dtype=torch.float64), name)
    train(dataclasses.replace(METHOD, approach=approach, rank=4), model, grads)
    return next(model.parameters()).detach()


def test_approach_2_is_approach_3_where_the_projection_keeps_the_rows_and_only_there() -> None:
    for shape, same in (((12, 7), True), ((9, 14), False)):
        grads = [gradient(shape, seed, torch.float64) for seed in range(5)]
        assert torch.equal(moved(2, shape, grads), moved(3, shape, grads)) == same


def test_approach_2_is_approach_3_where_all_rows_share_one_second_moment() -> None:
    """The columns of a basis have norm 1, so every coordinate then sees the one divisor."""
    grads = [gradient((9, 14), seed, torch.float64) for seed in range(5)]
    grads = [g / g.norm(dim=1, keepdim=True) for g in grads]
    torch.testing.assert_close(moved(2, (9, 14), grads, "v_proj"), moved(3, (9, 14), grads, "v_proj"))


def test_approach_1_by_hand() -> None:
    """A wide G of rank 2 with singular values 3 and 1 on the axes: each coordinate moves by its own mean square."""
    method = GaLoreMini(approach=1, rank=2, scale=0.5, lr=0.1, eps=1e-12)
    model = one_matrix(torch.zeros(2, 4), "v_proj")
    optimizer = train(method, model, [torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])])
    assert the_state(optimizer)["vmean"].shape == (2, 1)
    moved = torch.tensor([[3 / (9 / 4) ** 0.5, 0.0, 0.0, 0.0], [0.0, 1 / (1 / 4) ** 0.5, 0.0, 0.0]])
    torch.testing.assert_close(next(model.parameters()).detach(), -0.05 * moved)


# --- the gap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cosines", "gap"),
    [
        ([], 50),
        ([1.0] * 4, 50),  # the queue is not full yet
        ([0.4] * 5, 100),  # the threshold itself counts
        ([1.0, 1.0, 0.0, 0.0, 0.0], 100),  # it is the mean that counts
        ([0.39] * 5, 50),
        ([-1.0] * 5, 50),
        ([float("nan")] * 5, 50),
    ],
)
def test_gap_follows_q_galores_rule_by_hand(cosines: list[float], gap: int) -> None:
    assert LazyRefresh.of(METHOD).learned_gap(50, cosines) == gap


def run_on(optimizer: GaLoreMiniOptimizer, p: nn.Parameter, grads: Callable[[int], Tensor]) -> Callable[[int], None]:
    def step(t: int) -> None:
        p.grad = grads(t)
        optimizer.step()

    return step


def test_a_subspace_that_stays_is_refreshed_ever_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gap 1: five cosines by step 5 double it to 2, then each refresh doubles it: 6, 8, 16, 32."""
    model = one_matrix(torch.zeros(9, 7))
    p, g = next(model.parameters()), gradient((9, 7), 0)
    optimizer = dataclasses.replace(METHOD, rank=2, update_gap=1).prepare(model)
    steps = refreshed_steps(monkeypatch, galore_mini_optimizer, run_on(optimizer, p, lambda t: g), 40)
    assert steps == [0, 1, 2, 3, 4, 5, 6, 8, 16, 32]


def test_a_subspace_that_turns_keeps_the_gap_and_a_request_comes_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    model = one_matrix(torch.zeros(9, 7))
    p = next(model.parameters())
    optimizer = dataclasses.replace(METHOD, rank=2, cos_threshold=0.99).prepare(model)
    step = run_on(optimizer, p, lambda t: gradient((9, 7), t))

    def with_request(t: int) -> None:
        if t == 7:
            optimizer.request_refresh()
        step(t)

    assert refreshed_steps(monkeypatch, galore_mini_optimizer, with_request, 20) == [0, 3, 6, 7, 9, 12, 15, 18]
    assert the_state(optimizer)["gap"] == 3


def test_each_weight_has_its_own_gap() -> None:
    model = tiny()
    optimizer = dataclasses.replace(METHOD, update_gap=1, cos_threshold=0.9).prepare(model)
    q, k = weight_named(model, "q_proj.weight"), weight_named(model, "k_proj.weight")
    for seed in range(6):
        set_gradients(model, seed)
        q.grad = gradient(q.shape, 0)
        optimizer.step()
    assert (optimizer.state[q]["gap"], optimizer.state[k]["gap"]) == (2, 1)


def test_on_meta_the_gap_never_grows_and_requests_refresh() -> None:
    model = tiny(device="meta")
    optimizer = dataclasses.replace(METHOD, update_gap=1).prepare(model)
    set_meta_gradients(model)
    for _ in range(7):
        optimizer.request_refresh()
        optimizer.step()
    assert {state["gap"] for state in optimizer.state.values() if "gap" in state} == {1}
    assert GaLoreMini(update_gap=50).refresh_steps(20_000) == range(0, 20_000, 50)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_keeps_the_old_basis(bad: float) -> None:
    model = one_matrix(torch.zeros(9, 9))
    optimizer = train(dataclasses.replace(METHOD, rank=4, update_gap=1), model, [gradient((9, 9), 0)])
    before = the_state(optimizer)["basis"].clone()
    grad = next(model.parameters()).grad
    assert grad is not None
    grad[0, 1] = bad
    optimizer.step()
    assert torch.equal(the_state(optimizer)["basis"], before)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_continues_bit_for_bit_with_its_gaps() -> None:
    method = dataclasses.replace(METHOD, update_gap=1, queue_size=2, cos_threshold=0.0)
    straight, first, second = tiny(), tiny(), tiny()
    a, b, c = method.prepare(straight), method.prepare(first), method.prepare(second)
    for seed in range(8):
        set_gradients(straight, seed)
        a.step()
        if seed < 4:
            set_gradients(first, seed)
            b.step()
    second.load_state_dict(first.state_dict())
    c.load_state_dict(b.state_dict())
    for seed in range(4, 8):
        set_gradients(second, seed)
        c.step()
    for p, q in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
        assert a.state[p].get("gap") == c.state[q].get("gap")
        assert a.state[p].get("cosines") == c.state[q].get("cosines")
