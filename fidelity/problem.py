"""What both sides of a comparison train: a small LLaMA, given gradients, and given batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from memprof.batches import synthetic_batch
from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import Method, Weight, named_weights

Weights = dict[str, Tensor]
Trainer = Callable[[int], Weights]
"""Makes step number `step` (from 0) and returns the weights after it, by the plain model's names."""
DECAY = 0.8
VOCABULARY = 64


def small_model(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """One decoder layer with four heads of 32: q, k, v, o (128, 128), gate, up (352, 128), down (128, 352)."""
    torch.manual_seed(0)
    return build_model("9m", dtype=dtype, num_layers=1, vocab_size=VOCABULARY)


def gradient(shape: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A gradient whose singular values fall like 0.8^i, so that its top subspace is well defined."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if len(shape) == 2:
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        g = u @ torch.diag(DECAY ** torch.arange(u.shape[1], dtype=torch.float64)) @ vh
    return g.to(dtype)


def gradients(model: nn.Module, step: int) -> Weights:
    """Every weight's gradient of a step: the same whatever the method."""
    pairs = enumerate(named_weights(model))
    return {w.name: gradient(w.shape, 1000 * step + i, p.dtype) for i, (w, p) in pairs}


def snapshot(model: nn.Module) -> Weights:
    return {weight.name: p.detach().clone() for weight, p in named_weights(model)}


def fed(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Trainer:
    """Steps on given gradients: for methods that leave the model as it is. `around` is open in the optimizer's step."""

    def step(number: int) -> Weights:
        given = gradients(model, number)
        for weight, p in named_weights(model):
            p.grad = given[weight.name].clone()
        with around():
            optimizer.step()
        optimizer.zero_grad()
        return snapshot(model)

    return step


def side_by_side(
    method: Method,
    reference: Callable[[LlamaForCausalLM], torch.optim.Optimizer],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[Weights, Trainer, Trainer]:
    """A method and a public optimizer on the same weights and given gradients, in fp32; `around` as in `fed`."""
    ours, theirs = small_model(torch.float32), small_model(torch.float32)
    return snapshot(ours), fed(ours, method.prepare(ours)), fed(theirs, reference(theirs), around)


def matrices_apart(model: nn.Module, **projection: Any) -> list[dict[str, Any]]:
    """Parameter groups as packages that project want them: attention and MLP matrices with settings, and the rest."""
    pairs = named_weights(model)
    return [
        {"params": [p for weight, p in pairs if not weight.is_matrix]},
        {"params": [p for weight, p in pairs if weight.is_matrix], **projection},
    ]


def trained(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, names: Sequence[str]) -> Trainer:
    """Steps on batches, by backward through the model: for methods that put layers of their own into it.

    `names` are the plain model's, of what is compared: a layer's weight is read as what the layer does to the unit
    vectors.
    """

    def step(number: int) -> Weights:
        torch.manual_seed(number)
        model(*synthetic_batch(4, 16, VOCABULARY, torch.device("cpu"))).backward()
        optimizer.step()
        optimizer.zero_grad()
        return effective_weights(model, names)

    return step


@torch.no_grad()
def effective_weights(model: nn.Module, names: Sequence[str]) -> Weights:
    """The weight (M, N) that each layer amounts to: W + s B A of a LoRA layer, and so on."""
    return {name: _effective(model.get_submodule(name.removesuffix(".weight"))).detach().clone() for name in names}


def _effective(module: nn.Module) -> Tensor:
    if isinstance(module, nn.Linear | nn.Embedding) or not hasattr(module, "in_features"):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight
    one = next(module.parameters())
    unit_NN = torch.eye(int(module.in_features), dtype=one.dtype, device=one.device)  # type: ignore[arg-type]
    y: Tensor = module(unit_NN)
    return y.T


Update = Callable[[Weight, Tensor, Tensor, dict[str, Any], int], Tensor]
"""(weight, W, gradient, state, t) -> W after step t (from 1); `state` starts empty and is the weight's own"""


def twin(model: nn.Module, update: Update) -> Trainer:
    """An oracle made of one plain function, applied to each weight of a copy of `model` on the given gradients."""
    weights = snapshot(model)
    states: dict[str, dict[str, Any]] = {name: {} for name in weights}

    def step(number: int) -> Weights:
        given = gradients(model, number)
        for weight, _ in named_weights(model):
            w, name = weights[weight.name], weight.name
            weights[name] = update(weight, w, given[name], states[name], number + 1)
        return dict(weights)

    return step


def adam(g: Tensor, state: dict[str, Any], t: int, betas: tuple[float, float], eps: float) -> Tensor:
    """Adam's normalised step m_hat / (sqrt(v_hat) + eps), as Kingma and Ba print it."""
    state["m"] = betas[0] * state.get("m", torch.zeros_like(g)) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", torch.zeros_like(g)) + (1 - betas[1]) * g * g
    m_hat, v_hat = state["m"] / (1 - betas[0] ** t), state["v"] / (1 - betas[1] ** t)
    out: Tensor = m_hat / (v_hat.sqrt() + eps)
    return out


def signed(vectors: Tensor) -> Tensor:
    """Columns with their entry of largest magnitude made positive: singular vectors have no sign of their own."""
    rows = vectors.abs().argmax(dim=0)
    return vectors * vectors[rows, torch.arange(vectors.shape[1])].sign()


@contextmanager
def one_sign_rule() -> Iterator[None]:
    """While open, torch.linalg.svd gives the vectors of the shorter side by the sign rule, as ours do."""
    svd = torch.linalg.svd

    def ruled(a: Tensor, full_matrices: bool = True, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = svd(a, full_matrices=full_matrices, **options)
        return (u, s, signed(vh.T).T) if a.shape[0] >= a.shape[1] else (signed(u), s, vh)

    torch.linalg.svd = ruled
    try:
        yield
    finally:
        torch.linalg.svd = svd
