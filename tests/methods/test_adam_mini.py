"""Adam-mini against its equations in fp64 block by block and by hand; `fidelity` holds it against adam_mini 1.1."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memprof.api import plan
from memprof.formula import formula
from memprof.llama import build_model
from memprof.method import Role, Weight, groups, named_weights
from memprof.methods.adam_mini import AdamMini, num_blocks
from tests.methods.models import gradients, peak_bytes, tiny, train

METHOD = AdamMini(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
DTYPES = [torch.float32, torch.bfloat16]
WRAPPED_NUMBER = 12
SHAPES: list[dict[str, Any]] = [{}, {"num_key_value_heads": 2}, {"head_dim": 16}, {"tie_word_embeddings": True}]


def set_gradients(model: nn.Module, seed: int) -> None:
    """Gradients whose rows have very different sizes, so that the partition matters."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=generator)
        grad *= torch.rand(p.shape[:1] + (1,) * (p.ndim - 1), generator=generator).add_(0.1)
        p.grad = grad.to(p.dtype)


def blocks_of(name: str, tensor: Tensor, heads: int, kv_heads: int) -> list[Tensor]:
    """The paper's partition, as slices."""
    if "norm" in name:
        return [tensor]
    if "q_proj" in name:
        return list(tensor.chunk(heads))
    return list(tensor.chunk(kv_heads)) if "k_proj" in name else list(tensor)


def adam_mini_on_a_block(w: Tensor, grads: list[Tensor], decay: float) -> Tensor:
    """Algorithm 1 of arXiv:2406.16793 for one block: Adam whose second moment is one number."""
    (beta1, beta2), m, v = METHOD.betas, torch.zeros_like(w), 0.0
    for t, g in enumerate(grads, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g**2).mean().item()
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - METHOD.lr * decay * w - METHOD.lr * m_hat / (v_hat**0.5 + METHOD.eps)
    return w


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_follow_the_paper(shape: dict[str, Any]) -> None:
    model = tiny(**shape)
    heads = (model.config.num_attention_heads, model.config.num_key_value_heads)
    start = {name: p.detach().double() for name, p in model.named_parameters()}
    grads: dict[str, list[Tensor]] = {name: [] for name in start}
    optimizer = METHOD.prepare(model)
    for step in range(5):
        set_gradients(model, step)
        for name, p in model.named_parameters():
            assert p.grad is not None
            grads[name].append(p.grad.double())
        optimizer.step()
    for name, p in model.named_parameters():
        decay = 0.0 if "norm" in name else METHOD.weight_decay
        by_block = [blocks_of(name, tensor, *heads) for tensor in (start[name], *grads[name])]
        expected = [adam_mini_on_a_block(w, list(seen), decay) for w, *seen in zip(*by_block, strict=True)]
        torch.testing.assert_close(
            p.double().reshape(-1), torch.cat([w.reshape(-1) for w in expected]), rtol=1e-5, atol=1e-6
        )


def test_a_row_is_a_block_by_hand() -> None:
    """First step: m_hat = g and v_hat = mean g^2 of the row, so a row moves by lr * g / rms(row)."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.zero_()
    layer.weight.grad = torch.tensor([[1.0, 7.0], [0.5, -0.5]])  # rms 5 and 1/2
    AdamMini(lr=0.1).prepare(layer).step()
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[-0.02, -0.14], [-0.1, 0.1]]))


@pytest.mark.parametrize(
    ("role", "shape", "heads", "blocks"),
    [
        (Role.Q, (128, 64), 8, 8),
        (Role.K, (32, 64), 2, 2),
        (Role.V, (32, 64), 2, 32),
        (Role.O, (64, 128), 1, 64),
        (Role.GATE, (96, 64), 1, 96),
        (Role.UP, (96, 64), 1, 96),
        (Role.DOWN, (64, 96), 1, 64),
        (Role.EMBED, (500, 64), 1, 500),
        (Role.HEAD, (500, 64), 1, 500),
        (Role.NORM, (64,), 1, 1),
        (Role.OTHER, (64,), 1, 1),
        (Role.OTHER, (10, 64), 1, 10),
    ],
)
def test_partition(role: Role, shape: tuple[int, ...], heads: int, blocks: int) -> None:
    assert num_blocks(Weight("w", role, shape, heads, 2)) == blocks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_states_have_the_parameters_dtype_and_the_formula_is_their_bytes(
    shape: dict[str, Any], dtype: torch.dtype
) -> None:
    model = tiny(dtype, **shape)
    optimizer = METHOD.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    pairs = named_weights(model)
    assert len(pairs) == len(optimizer.state)
    for weight, p in pairs:
        state = optimizer.state[p]
        expected = {"m": weight.shape, "vmean": (num_blocks(weight), 1) if p.ndim == 2 else ()}
        assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected, weight.name
        assert {tensor.dtype for tensor in state.values()} == {dtype}, weight.name
        footprint = METHOD.formula(weight)
        assert footprint.optimizer_state == sum(tensor.untyped_storage().nbytes() for tensor in state.values())
        assert (footprint.param, footprint.grad) == (p.nbytes, p.nbytes)


@pytest.mark.parametrize(
    ("partition", "state_dtype", "kept"),
    [
        ("1.1", None, torch.bfloat16),
        ("1.1", "weights", torch.bfloat16),
        ("1.1", "fp32", torch.float32),
        ("1.0", None, torch.float32),
        ("1.0", "weights", torch.bfloat16),
        ("1.0", "fp32", torch.float32),
    ],
)
def test_states_are_fp32_or_as_the_weights(partition: str, state_dtype: str | None, kept: torch.dtype) -> None:
    """By default as in the version that had the partition: adam_mini 1.0 asks for fp32, 1.1 for nothing."""
    model, method = tiny(torch.bfloat16), AdamMini(partition=partition, state_dtype=state_dtype)
    optimizer = method.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        assert {tensor.dtype for tensor in optimizer.state[p].values()} == {kept}, weight.name
        held = sum(tensor.nbytes for tensor in optimizer.state[p].values())
        assert held == method.formula(weight).optimizer_state, weight.name


def test_the_state_that_a_paper_prints() -> None:
    """0.81 GB for 350m in the table of "Approximations may be all you need": GiB, of a vocabulary of 32100, bf16.

    By hand, in elements: m of every weight, v of each element of embedding and head, else one number for each head of
    q and k and for every other tensor.
    """
    h, layers, heads, vocabulary, weights = 1024, 24, 16, 32100, 368_174_080
    (case,) = plan(["350m"], ["adam-mini:partition=1.0,state_dtype=weights"], vocab_size=vocabulary)
    found = formula(case).optimizer_state
    assert found == 2 * (weights + 2 * vocabulary * h + layers * (2 * heads + 5 + 2) + 1)
    assert f"{found / 2**30:.4f}" == "0.8082"


def test_second_moments_of_a_layer_by_hand() -> None:
    """2 a + h (v) + h (o) + 2 i + h (down) + 2 norms for a layer, V + V + 1 for the rest."""
    h, i, a, vocab = 128, 352, 4, 64
    states = sum(METHOD.formula(weight).optimizer_state - weight.nbytes for weight, _ in named_weights(tiny()))
    assert states == 4 * (2 * a + 3 * h + 2 * i + 2 + 2 * vocab + 1)


@pytest.mark.parametrize("state_dtype", [None, "weights", "fp32"])
@pytest.mark.parametrize("partition", ["1.1", "1.0"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transient_is_the_formulas(
    shape: dict[str, Any], dtype: torch.dtype, partition: str, state_dtype: str | None
) -> None:
    """To the byte, but for a CPU's wrapping of Python numbers into 0-d fp64 tensors and their casts."""
    model, method = tiny(dtype, **shape), replace(METHOD, partition=partition, state_dtype=state_dtype)
    optimizer = method.prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    weights = [weight for weight, _ in named_weights(model)]
    allocated = peak_bytes(optimizer.step)
    cut = groups(weights, lambda w: method.formula(w).transient, method.scratch_limit(weights), method.update_kind)
    scratch = max(sum(method.formula(weight).transient for weight in group) for group in cut)
    assert 0 <= allocated - scratch <= WRAPPED_NUMBER


def test_norms_do_not_decay() -> None:
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    METHOD.prepare(model).step()
    for name, p in model.named_parameters():
        kept = 1.0 if "norm" in name else 1 - METHOD.lr * METHOD.weight_decay
        torch.testing.assert_close(p.detach(), before[name] * kept)


@pytest.mark.parametrize("partition", ["1.1", "1.0"])
@pytest.mark.parametrize("state_dtype", ["weights", "fp32"])
def test_a_bf16_step_stays_close_to_the_fp32_step(state_dtype: str, partition: str) -> None:
    """One step from the same bf16 weights and gradients: within the rounding of weight, denominator and moment."""
    method = replace(METHOD, partition=partition, state_dtype=state_dtype)
    low, high = tiny(torch.bfloat16), tiny()
    set_gradients(low, 0)
    for p, q in zip(low.parameters(), high.parameters(), strict=True):
        assert p.grad is not None
        q.data, q.grad = p.detach().float(), p.grad.float()
    start = [p.detach().float() for p in low.parameters()]
    method.prepare(low).step()
    method.prepare(high).step()
    half_ulp = 2**-8  # relative, of the weight (decay and update round it once each) and of what scales its step
    for p, q, w in zip(low.parameters(), high.parameters(), start, strict=True):
        slack = 2 * half_ulp * w.abs() + 4 * half_ulp * (q - w).abs() + 1e-7
        assert ((p.float() - q).abs() <= slack).all(), (p.float() - q).abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_seeded_runs_agree_bitwise(dtype: torch.dtype) -> None:
    a, b = tiny(dtype), tiny(dtype)
    train(a, METHOD.prepare(a), 3)
    train(b, METHOD.prepare(b), 3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_dict_continues_the_run(dtype: torch.dtype) -> None:
    straight, stopped, resumed = tiny(dtype), tiny(dtype), tiny(dtype)
    whole, first, second = (METHOD.prepare(model) for model in (straight, stopped, resumed))
    for step in range(4):
        set_gradients(straight, step)
        whole.step()
        if step == 2:
            resumed.load_state_dict(stopped.state_dict())
            second.load_state_dict(first.state_dict())
        model, optimizer = (stopped, first) if step < 2 else (resumed, second)
        set_gradients(model, step)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_weights_without_a_gradient_stay_and_have_no_state() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)
    optimizer.step()
    assert not optimizer.state
    before = model.lm_head.weight.detach().clone()
    set_gradients(model, 0)
    model.lm_head.weight.grad = None
    optimizer.step()
    assert torch.equal(model.lm_head.weight, before) and model.lm_head.weight not in optimizer.state


def test_closure_gives_the_loss_and_gradients_stay_as_they_were() -> None:
    model = tiny()
    optimizer = METHOD.prepare(model)

    def closure() -> float:
        set_gradients(model, 0)
        assert torch.is_grad_enabled()
        return 1.5

    assert optimizer.step(closure) == 1.5
    before = [grad.clone() for grad in gradients(model)]
    optimizer.step()
    assert all(torch.equal(g, h) for g, h in zip(before, gradients(model), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_on_meta_tensors_and_so_without_reading_any(dtype: torch.dtype) -> None:
    model = tiny(dtype, "meta", num_key_value_heads=2)
    optimizer = METHOD.prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    assert all(tensor.is_meta for state in optimizer.state.values() for tensor in state.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_step_of_24_layers_is_at_most_300_launches(
    decay: float, dtype: torch.dtype, launches: Callable[[Callable[[], object]], int]
) -> None:
    """adam_mini 1.1 makes 3117."""
    model = build_model("350m", device="meta", dtype=dtype)
    optimizer = AdamMini(weight_decay=decay).prepare(model)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert launches(optimizer.step) <= 300


def test_the_partition_of_1_0() -> None:
    """Elements of embedding and head, heads of q and k, other tensors whole; states fp32 whatever the weights."""
    model = tiny(torch.bfloat16, num_key_value_heads=2)
    optimizer = AdamMini(partition="1.0").prepare(model)
    set_gradients(model, 0)
    optimizer.step()
    for weight, p in named_weights(model):
        state = optimizer.state[p]
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        if weight.role in (Role.EMBED, Role.HEAD):
            assert state["v"].shape == p.shape
        else:
            heads = {Role.Q: (4, 1), Role.K: (2, 1)}
            assert state["vmean"].shape == heads.get(weight.role, ())


def test_a_large_weight_is_divided_by_itself_and_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    together, alone = tiny(), tiny()
    for model, limit in ((together, 2**22), (alone, 0)):
        monkeypatch.setattr("memprof.methods.adam_mini.TOGETHER", limit)
        optimizer = METHOD.prepare(model)
        for step in range(3):
            set_gradients(model, step)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(together.parameters(), alone.parameters(), strict=True))
