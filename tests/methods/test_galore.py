"""GaLore against the paper's equations in fp64, torch's SVD and AdamW, hand-computed steps and the authors' code."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.problem import gradient, signed
from memprof.method import named_weights
from memprof.methods.galore import GaLore
from memprof.methods.parts import sides
from memprof.methods.parts.projection import top_subspace
from tests.methods.models import stepped, tiny, weight_named
from tests.methods.subspaces import refreshed_steps, set_gradients

METHOD = GaLore(rank=8, update_gap=3, scale=0.25, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)
SHAPES = {"tall": (12, 7), "wide": (7, 12), "square": (9, 9)}
DTYPES = [torch.float32, torch.bfloat16]


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


def galore_by_the_paper(w: Tensor, grads: Sequence[Tensor], method: GaLore) -> Tensor:
    """Algorithm 2 of arXiv:2403.03507 by SVD, with the authors' eps and decay, one gradient at a time."""
    (beta1, beta2), rank = method.betas, method.rank
    m: Any = 0
    v: Any = 0
    for t, g in enumerate(grads):
        if t % method.update_gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            p = signed(vh.T[:, :rank]) if g.shape[0] >= g.shape[1] else signed(u[:, :rank])
        low = g @ p if g.shape[0] >= g.shape[1] else p.T @ g
        m = beta1 * m + (1 - beta1) * low
        v = beta2 * v + (1 - beta2) * low**2
        size = method.lr * (1 - beta2 ** (t + 1)) ** 0.5 / (1 - beta1 ** (t + 1))
        n = m / (v.sqrt() + method.eps)
        w = w - size * method.scale * (n @ p.T if g.shape[0] >= g.shape[1] else p @ n)
        w = w - method.lr * method.weight_decay * w
    return w


# --- the update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_steps_over_refreshes_are_the_papers_equations(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    method = dataclasses.replace(METHOD, rank=4)
    w = torch.randn(shape, dtype=torch.float64).to(dtype)
    grads = [gradient(shape, seed, dtype) for seed in range(11)]
    ours, _ = stepped(method, w, grads)
    truth = galore_by_the_paper(w.double(), [g.double() for g in grads], method)
    drift = relative(ours - w, truth - w.double())
    assert drift < tolerance, f"the update drifts by {drift:.3e} > {tolerance:.0e} ({dtype}, {shape})"


def test_one_step_by_hand() -> None:
    """G = diag(3, 1), rank 1: the subspace is the first axis, m_hat / sqrt(v_hat) is 1 there and 0 elsewhere."""
    method = GaLore(rank=1, scale=0.5, lr=0.1, weight_decay=0.2, eps=1e-12)
    w, optimizer = stepped(method, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [torch.diag(torch.tensor([3.0, 1.0]))])
    torch.testing.assert_close(w, 0.98 * torch.tensor([[1 - 0.1 * 0.5, 2.0], [3.0, 4.0]]))
    state = next(iter(optimizer.state.values()))
    torch.testing.assert_close(state["basis"], torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(state["exp_avg"], torch.tensor([[0.3], [0.0]]))
    torch.testing.assert_close(state["exp_avg_sq"], torch.tensor([[0.009], [0.0]]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_full_rank_in_a_fixed_basis_is_adam_in_rotated_coordinates(shape: tuple[int, int]) -> None:
    """Adam is not rotation invariant: the identity holds for Adam on the rotated gradients, rotated back."""
    method = GaLore(rank=min(shape), update_gap=100, scale=1.0, eps=1e-14)
    w, tall = torch.randn(shape, dtype=torch.float64), shape[0] >= shape[1]
    grads = [gradient(shape, seed, torch.float64) for seed in range(6)]
    ours, optimizer = stepped(method, w, grads)
    basis = next(iter(optimizer.state.values()))["basis"]
    z = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([z], lr=method.lr, betas=method.betas, eps=method.eps)
    for g in grads:
        z.grad = g @ basis.T if tall else basis.T @ g
        adam.step()
    rotated = w + (z.detach() @ basis if tall else basis @ z.detach())
    torch.testing.assert_close(ours, rotated, rtol=1e-8, atol=1e-10)


def test_full_rank_is_adamw_where_the_basis_is_the_axes() -> None:
    """A first gradient with orthogonal columns has the axes as its subspace, and Adam does not mind their order."""
    method = GaLore(rank=3, update_gap=100, scale=1.0, eps=1e-14)
    first = torch.diag(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64))
    grads = [first, *(gradient((3, 3), seed, torch.float64) for seed in range(5))]
    w = torch.randn(3, 3, dtype=torch.float64)
    ours, _ = stepped(method, w, grads)
    theirs = w.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=method.lr, betas=method.betas, eps=method.eps)
    for g in grads:
        theirs.grad = g
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-8, atol=1e-10)


def test_embedding_head_and_norms_take_hugging_faces_adamw() -> None:
    """eps is added before bias correction, and the decay comes after the update: by the equations, in fp64."""
    method = dataclasses.replace(METHOD, eps=1e-2)
    model = tiny()
    others = [p for weight, p in named_weights(model) if not weight.is_matrix]
    truth = [p.detach().double() for p in others]
    m, v = [torch.zeros_like(w) for w in truth], [torch.zeros_like(w) for w in truth]
    optimizer, (beta1, beta2) = method.prepare(model), method.betas
    for t in range(1, 5):
        set_gradients(model, t)
        optimizer.step()
        for i, p in enumerate(others):
            assert p.grad is not None
            m[i] = beta1 * m[i] + (1 - beta1) * p.grad.double()
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad.double() ** 2
            size = method.lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
            truth[i] = (truth[i] - size * m[i] / (v[i].sqrt() + method.eps)) * (1 - method.lr * method.weight_decay)
    for p, w in zip(others, truth, strict=True):
        torch.testing.assert_close(p.double(), w, rtol=1e-5, atol=1e-6)


def test_decay_is_decoupled_from_the_gradient() -> None:
    model = tiny()
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    METHOD.prepare(model).step()
    for p, w in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), w * (1 - METHOD.lr * METHOD.weight_decay))


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
    shape, method = (64, 96), dataclasses.replace(METHOD, weight_decay=0.0)
    w, grads = torch.zeros(shape), [gradient(shape, seed, torch.bfloat16) for seed in range(5)]
    low, _ = stepped(method, w.bfloat16(), grads)
    high, _ = stepped(method, w, [g.float() for g in grads])
    drift = relative(low, high)
    assert drift < 0.05, f"bf16 drifts by {drift:.3e} from fp32"


def test_training_lowers_the_loss() -> None:
    model = tiny()
    optimizer = GaLore(rank=32, update_gap=5).prepare(model)
    ids = torch.randint(0, 64, (2, 16))
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(ids, ids)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0], losses


# --- the subspace ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_basis_is_svds_up_to_sign_in_its_order(shape: tuple[int, int], rank: int) -> None:
    g = gradient(shape, 3, torch.float64)
    basis, finite = top_subspace(g, rank)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    truth = vh[:rank] if shape[0] >= shape[1] else u[:, :rank]
    torch.testing.assert_close(basis.abs(), truth.abs(), rtol=1e-8, atol=1e-10)
    vectors = basis if shape[0] >= shape[1] else basis.T
    assert all(v[v.abs().argmax()] > 0 for v in vectors)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(rank, dtype=torch.float64))
    assert bool(finite)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_keeps_the_old_basis(bad: float) -> None:
    method = dataclasses.replace(METHOD, rank=4, update_gap=1)
    _, optimizer = stepped(method, torch.zeros(9, 9), [gradient((9, 9), 0)])
    p = next(iter(optimizer.state))
    before = optimizer.state[p]["basis"].clone()
    assert p.grad is not None
    p.grad[0, 1] = bad
    optimizer.step()
    assert torch.equal(optimizer.state[p]["basis"], before)


def test_refreshes_at_step_0_then_every_gap_and_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)

    def step(t: int) -> None:
        set_gradients(model, t)
        if t == 5:
            optimizer.request_refresh()
        optimizer.step()

    assert refreshed_steps(monkeypatch, sides, step, 8) == [0, 3, 5, 6]
    assert list(METHOD.refresh_steps(8)) == [0, 3, 6]


def test_gap_50_over_20000_steps_is_400_refreshes() -> None:
    assert len(GaLore(update_gap=50).refresh_steps(20_000)) == 400


# --- checkpoints and late gradients ----------------------------------------------------------------------------------


def test_a_checkpoint_continues_bit_for_bit() -> None:
    straight, first, second = tiny(), tiny(), tiny()
    a, b, c = METHOD.prepare(straight), METHOD.prepare(first), METHOD.prepare(second)
    for seed in range(5):
        set_gradients(straight, seed)
        a.step()
        if seed < 2:
            set_gradients(first, seed)
            b.step()
    second.load_state_dict(first.state_dict())
    c.load_state_dict(b.state_dict())
    for seed in range(2, 5):
        set_gradients(second, seed)
        c.step()
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), second.parameters(), strict=True))


def test_a_weight_whose_first_gradient_comes_late_gets_a_basis_then() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)
    late = weight_named(model, "q_proj.weight")
    for seed in range(2):
        set_gradients(model, seed)
        if seed == 0:
            late.grad = None
        optimizer.step()
        assert (late in optimizer.state) == (seed == 1)
    assert optimizer.state[late]["basis"].abs().sum() > 0


# --- the authors' code -----------------------------------------------------------------------------------------------


def svd_with_sign_rule(svd: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(a: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = svd(a, full_matrices=full_matrices)
        return (u, s, signed(vh.T).T) if a.shape[0] >= a.shape[1] else (signed(u), s, vh)

    return wrapped


def drift_from_the_authors(shape: tuple[int, int], steps: int) -> float:
    authors = pytest.importorskip("galore_torch")
    rank, method = 16, dataclasses.replace(METHOD, rank=16)
    w, grads = torch.randn(shape), [gradient(shape, seed) for seed in range(steps)]
    theirs = nn.Parameter(w.clone())
    options = {"rank": rank, "update_proj_gap": method.update_gap, "scale": method.scale, "proj_type": "std"}
    reference = authors.GaLoreAdamW(
        [{"params": [theirs], **options}],
        lr=method.lr,
        betas=method.betas,
        eps=method.eps,
        weight_decay=method.weight_decay,
        no_deprecation_warning=True,
    )
    for g in grads:
        theirs.grad = g.clone()
        reference.step()
    ours, _ = stepped(method, w, grads)
    return relative(ours - w, theirs.detach() - w)


@pytest.mark.reference
@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
def test_trajectory_is_the_authors_with_one_sign_rule_on_both(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    steps = 12
    unwrapped = drift_from_the_authors(shape, steps)
    monkeypatch.setattr(torch.linalg, "svd", svd_with_sign_rule(torch.linalg.svd))
    drift = drift_from_the_authors(shape, steps)
    record_property("drift", {"with the sign rule": drift, "without": unwrapped})
    assert drift < 1e-4, f"drift {drift:.3e} from galore_torch after {steps} steps ({unwrapped:.3e} without sign rule)"


@pytest.mark.reference
def test_embedding_head_and_norms_are_the_authors_adamw() -> None:
    authors = pytest.importorskip("galore_torch")
    ours, theirs = tiny(), tiny()
    keys = ("lr", "betas", "eps", "weight_decay")
    optimizer = METHOD.prepare(ours)
    reference = authors.GaLoreAdamW(
        theirs.parameters(), no_deprecation_warning=True, **{key: METHOD.hyperparameters()[key] for key in keys}
    )
    for seed, model in itertools.product(range(4), (ours, theirs)):
        set_gradients(model, seed)
        (optimizer if model is ours else reference).step()
    for (weight, p), q in zip(named_weights(ours), theirs.parameters(), strict=True):
        if not weight.is_matrix:
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, msg=f"{weight.name} {relative(p, q):.3e}")
