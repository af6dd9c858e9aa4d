"""A few linear layers by themselves, sides in letters: what a paper's formula per weight or per layer is about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from memprof.ledger import param_tensors, state_tensors
from memprof.method import Method, Weight, named_weights
from memprof.papers.letters import evaluate

HEADS = 16
"""of q_proj and k_proj where their rows allow it, for methods that treat heads apart"""
DTYPE = torch.bfloat16
PARENT = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}


def layer(weights: Mapping[str, Sequence[str]], letters: Mapping[str, int]) -> nn.Module:
    """The layers under Hugging Face's names, on meta tensors."""
    model = nn.Module()
    rows = [evaluate(weights[name][0], letters) for name in ("q_proj", "k_proj") if name in weights]
    heads = math.gcd(HEADS, *rows)
    model.config = SimpleNamespace(num_attention_heads=heads, num_key_value_heads=heads)  # type: ignore[assignment]
    for name, sides in weights.items():
        out, into = (evaluate(side, letters) for side in sides)
        path = f"model.layers.0.{PARENT.get(name, 'mlp')}"
        _grow(model, path).add_module(name, nn.Linear(into, out, bias=False, device="meta", dtype=DTYPE))
    return model


def weights_of(model: nn.Module) -> list[Weight]:
    return [weight for weight, _ in named_weights(model)]


def stored_elements(model: nn.Module, method: Method) -> dict[str, int]:
    """What parameters and optimizer really keep after a step of the real code, in elements of the weights' type."""
    optimizer = method.prepare(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    params = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in param_tensors(model)}
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    known = params.keys() | {grad.untyped_storage()._cdata for grad in gradients}
    state = _bytes(tensor for tensor in state_tensors(optimizer) if tensor.untyped_storage()._cdata not in known)
    return {"param": sum(params.values()) // DTYPE.itemsize, "optimizer_state": state // DTYPE.itemsize}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _grow(model: nn.Module, path: str) -> nn.Module:
    for part in path.split("."):
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    return model
