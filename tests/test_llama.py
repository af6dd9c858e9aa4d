"""The model against a plain twin written out here, Hugging Face's own, and its closed form of saved bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memprof.api import plan
from memprof.batches import synthetic_batch
from memprof.catalogue import get_method
from memprof.formula import formula
from memprof.llama import LlamaForCausalLM, build_model, cross_entropy, rotary_tables, rotate
from memprof.shapes import SHAPES, get_shape
from memprof.step import prepare

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one-key-head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "llama3": {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 5e5, "rms_norm_eps": 1e-5},
    "wide-heads": {"head_dim": 48},
    "one-layer": {"num_layers": 1},
}
variants = pytest.mark.parametrize("shape", VARIANTS.values(), ids=VARIANTS)
BATCH, POSITIONS, VOCABULARY = 3, 17, 61


def tiny(dtype: torch.dtype = torch.float32, device: str = "cpu", **shape: Any) -> LlamaForCausalLM:
    """A small model whose weights are large enough for every term to matter."""
    model = build_model("9m", dtype=dtype, device=device, **{"num_layers": 2, "vocab_size": VOCABULARY, **shape})
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters() if device == "cpu" else ():
        noise = torch.randn(p.shape, generator=generator)
        p.data.copy_(1 + 0.2 * noise if p.ndim == 1 else 0.08 * noise)
    return model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    ids, labels = torch.randint(0, VOCABULARY, (2, BATCH, POSITIONS), generator=generator)
    return ids, labels


def twin(weights: dict[str, Tensor], config: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """LLaMA in the words of the papers: per head, with explicit rotations, masks and softmax."""
    heads, kv, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    half, dtype = d // 2, weights["model.norm.weight"].dtype

    def norm(x: Tensor, name: str) -> Tensor:
        scale: Tensor = (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * weights[name]
        return x * scale

    angle = torch.tensor([[t * config.rope_theta ** (-2 * j / d) for j in range(half)] for t in range(ids.shape[1])])
    cos, sin = angle.to(dtype).cos(), angle.to(dtype).sin()

    def turned(x: Tensor) -> Tensor:
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    x = weights["model.embed_tokens.weight"][ids]
    causal = torch.ones(ids.shape[1], ids.shape[1]).tril() == 0
    for i in range(config.num_hidden_layers):
        p = f"model.layers.{i}."
        y, outs = norm(x, p + "input_layernorm.weight"), []
        for h in range(heads):
            g = h * kv // heads
            q = turned(y @ weights[p + "self_attn.q_proj.weight"][h * d : (h + 1) * d].T)
            k = turned(y @ weights[p + "self_attn.k_proj.weight"][g * d : (g + 1) * d].T)
            v = y @ weights[p + "self_attn.v_proj.weight"][g * d : (g + 1) * d].T
            scores = (q @ k.transpose(1, 2) / math.sqrt(d)).masked_fill(causal, -math.inf)
            outs.append(scores.softmax(-1) @ v)
        x = x + torch.cat(outs, -1) @ weights[p + "self_attn.o_proj.weight"].T
        y = norm(x, p + "post_attention_layernorm.weight")
        gate = y @ weights[p + "mlp.gate_proj.weight"].T
        up = y @ weights[p + "mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ weights[p + "mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    logp = (norm(x, "model.norm.weight") @ head.T).log_softmax(-1)
    return -logp.gather(-1, labels.unsqueeze(-1)).mean()


@variants
def test_loss_and_gradients_are_the_twins(shape: dict[str, Any]) -> None:
    """fp32 against the twin in fp64: loss to 1e-6, gradients to 1e-5 of their norm."""
    model = tiny(**shape)
    ids, labels = batch()
    loss = model(ids, labels)
    loss.backward()
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    expected = twin(weights, model.config, ids, labels)
    expected.backward()
    assert loss.dtype == torch.float32
    drift = abs(loss.item() - expected.item())
    assert drift < 1e-6 * expected.item(), f"loss drift {drift:.2e} (fp32 against fp64)"
    for name, p in model.named_parameters():
        grad, reference = p.grad, weights[name].grad
        assert grad is not None and reference is not None
        error = ((grad - reference).norm() / reference.norm()).item()
        assert error < 1e-5, f"{name}: gradient off by {error:.2e} of its norm"


@variants
def test_bf16_is_near_the_twin(shape: dict[str, Any]) -> None:
    model = tiny(torch.bfloat16, **shape)
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    expected = twin(weights, model.config, *batch()).item()
    loss = model(*batch())
    assert loss.dtype == torch.float32
    assert abs(loss.item() - expected) < 0.02 * expected, f"loss {loss.item()}, twin {expected}"


def test_the_future_does_not_leak() -> None:
    """Changing the last token changes nothing before it."""
    model = tiny(num_key_value_heads=2)
    ids, _ = batch()
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % VOCABULARY
    first, second = (model.model(x).view(BATCH, POSITIONS, -1) for x in (ids, other))
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


def test_rotation_is_by_relative_position() -> None:
    """q at t and k at s meet in a product that depends on t - s alone."""
    rotary = rotary_tables(30, 16, 1e4, torch.float64, torch.device("cpu"))
    q, k = torch.randn(2, 1, 30, 1, 16, dtype=torch.float64).unbind()
    q, k = q[:, :1].expand(1, 30, 1, 16), k[:, :1].expand(1, 30, 1, 16)
    scores = (rotate(q, rotary)[0, :, 0] @ rotate(k, rotary)[0, :, 0].T).to(torch.float64)
    for shift in range(-20, 20):
        line = scores.diagonal(shift)
        assert (line - line[0]).abs().max() < 1e-5, shift
    torch.testing.assert_close(rotate(q, rotary).norm(dim=-1), q.norm(dim=-1), rtol=1e-6, atol=0)


def test_cross_entropy_is_in_fp32() -> None:
    logits = torch.randn(7, 11).mul_(30).bfloat16()
    labels = torch.randint(0, 11, (7,))
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits.double(), labels).float())


@pytest.mark.parametrize("tied", [False, True])
def test_names_are_hugging_faces(tied: bool) -> None:
    model = tiny(num_layers=1, tie_word_embeddings=tied)
    layer = "model.layers.0."
    expected = ["model.embed_tokens.weight"]
    expected += [layer + f"self_attn.{x}_proj.weight" for x in "qkvo"]
    expected += [layer + f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")]
    expected += [layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight", "model.norm.weight"]
    expected += [] if tied else ["lm_head.weight"]
    assert {name for name, _ in model.named_parameters()} == set(expected)
    assert list(model.buffers()) == []
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_of_a_meta_model_are_the_shapes(name: str) -> None:
    model = build_model(name, dtype=torch.bfloat16, device="meta", num_layers=1)
    assert sum(p.numel() for p in model.parameters()) == get_shape(name, num_layers=1).num_parameters


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = build_model("9m", num_layers=1, vocab_size=1000)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert torch.equal(p, torch.ones_like(p)), name
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.05), name
    torch.manual_seed(0)
    again = build_model("9m", num_layers=1, vocab_size=1000)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def saved_storages(model: nn.Module, ids: Tensor, labels: Tensor) -> tuple[int, Tensor]:
    """Bytes of all storages that autograd keeps in a forward, parameters and the batch left out, each once."""
    known = {t.untyped_storage()._cdata for t in (*model.parameters(), ids, labels)}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        on_host = tensor.ndim == 0 and tensor.dtype == torch.int64  # efficient attention's seed and offset, on CUDA
        if storage._cdata not in known and not on_host:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(ids, labels)
    return sum(storage.nbytes() for storage in kept.values()), loss


@variants
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("kernels", "device"), [("cuda", "meta"), ("cpu", "meta"), ("cpu", "cpu")])
def test_activation_formula_is_what_autograd_saves(
    kernels: str, device: str, dtype: str, shape: dict[str, Any]
) -> None:
    """saved_tensors_hooks, which know nothing of our ledger, plus the batch and the loss that the loop holds."""
    fields: dict[str, Any] = {"vocab_size": VOCABULARY, "num_layers": 2, "batch_size": BATCH, "seq_len": POSITIONS}
    fields |= {"num_layers": shape["num_layers"]} if "num_layers" in shape else {}
    (case,) = plan(["9m"], ["adamw"], dtype=dtype, kernels=kernels, **fields)
    case = dataclasses.replace(case, shape=get_shape("9m", **{"vocab_size": VOCABULARY, "num_layers": 2, **shape}))
    model, _ = prepare(case, torch.device(device))
    ids, labels = synthetic_batch(BATCH, POSITIONS, VOCABULARY, torch.device(device))
    saved, loss = saved_storages(model, ids, labels)
    held = sum(t.untyped_storage().nbytes() for t in (ids, labels, loss))
    predicted = formula(case).activation
    assert saved + held == predicted, f"formula - autograd = {predicted - saved - held} bytes"


@pytest.mark.reference
@variants
def test_loss_and_gradients_are_hugging_faces(shape: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny(**shape)
    config = model.config
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            tie_word_embeddings=config.tie_word_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    )
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert (list(missing), list(unexpected)) == ([], [])
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in reference.named_parameters()}
    ids, labels = batch()
    loss = model(ids, labels)
    loss.backward()
    logits = reference(input_ids=ids, use_cache=False).logits
    expected = F.cross_entropy(logits.float().view(-1, VOCABULARY), labels.view(-1))
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-5, f"loss {loss.item()}, Hugging Face's {expected.item()}"
    others = dict(reference.named_parameters())
    for name, p in model.named_parameters():
        grad = others[name].grad
        error = ((p.grad - grad).norm() / grad.norm()).item()
        assert error < 1e-4, f"{name}: gradient off by {error:.2e} of its norm"


def test_slices_of_one_batch_are_taken_as_they_come() -> None:
    model = build_model("9m", num_layers=1, vocab_size=64)
    tokens = torch.randint(64, (3, 9))
    assert torch.equal(model(tokens[:, :-1], tokens[:, 1:]), model(tokens[:, :-1].clone(), tokens[:, 1:].clone()))


def trained(method: str, steps: int = 3, accumulation: int = 1, **how: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and parameters of a few steps of a plain loop, the model built in the way `how` says."""
    torch.manual_seed(0)
    model = build_model("9m", num_layers=2, vocab_size=VOCABULARY, **how)
    optimizer = get_method(method, lr=0.01).prepare(model)
    losses = []
    for _ in range(steps):
        for _ in range(accumulation):
            loss = model(*synthetic_batch(2, 8, VOCABULARY, torch.device("cpu"))) / accumulation
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return losses, list(model.state_dict().values())


@variants
def test_checkpointing_leaves_loss_and_gradients_bitwise_as_they_are(shape: dict[str, Any]) -> None:
    plain, checkpointed = tiny(**shape), tiny(checkpointing=True, **shape)
    losses = [model(*batch()) for model in (plain, checkpointed)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for (name, p), q in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad), f"{name}: off by {(p.grad - q.grad).abs().max():.2e}"


@pytest.mark.parametrize(
    ("method", "accumulation"),
    [("adamw", 1), ("adamw", 2), ("galore:per_layer=true", 1), ("lora", 2), ("dora", 1), ("sltrain", 2), ("grass", 2),
     ("q-galore", 1), ("loqt", 1)],
)  # fmt: skip
def test_checkpointed_training_is_bitwise_the_plain_one(method: str, accumulation: int) -> None:
    """Through layers of the methods' own, updates inside backward and accumulated gradients."""
    plain = trained(method, accumulation=accumulation)
    checkpointed = trained(method, accumulation=accumulation, checkpointing=True)
    for seen, expected in zip(checkpointed, plain, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))


def layers_run(model: LlamaForCausalLM, run: Callable[[], object]) -> int:
    """How often `run` runs a decoder layer."""
    calls: list[object] = []
    hooks = [layer.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in model.model.layers]
    run()
    for hook in hooks:
        hook.remove()
    return len(calls)


def test_backward_runs_each_checkpointed_layer_once_more() -> None:
    model = tiny(checkpointing=True)
    losses: list[Tensor] = []
    assert layers_run(model, lambda: losses.append(model(*batch()))) == 2
    assert layers_run(model, lambda: losses[0].backward()) == 2
    with torch.no_grad():
        assert layers_run(model, lambda: model(*batch())) == 2
