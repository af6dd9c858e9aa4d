"""Small models whose steps are tested, and what steps them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from memprof.llama import LlamaForCausalLM, build_model
from memprof.method import Method

HEADS = 3


def tiny(dtype: torch.dtype = torch.float32, device: str = "cpu", layers: int = 1, **shape: Any) -> LlamaForCausalLM:
    """Always the same LLaMA of 64 tokens."""
    torch.manual_seed(0)
    return build_model("9m", dtype=dtype, device=device, num_layers=layers, vocab_size=64, **shape)


def one_matrix(w: Tensor, name: str = "q_proj") -> nn.Module:
    """A model whose only weight has that name; q and k have three heads."""
    model = nn.Module()
    setattr(model, "config", SimpleNamespace(num_attention_heads=HEADS))  # noqa: B010
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight = nn.Parameter(w.clone())
    model.add_module(name, layer)
    return model


def weight_named(model: nn.Module, ending: str) -> nn.Parameter:
    return next(p for name, p in model.named_parameters() if name.endswith(ending))


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def set_normal_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def set_meta_gradients(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.empty_like(p)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, device: str = "cpu") -> list[Tensor]:
    """Losses of a few steps, each on its own batch; the last gradients stay."""
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        ids, labels = torch.randint(0, 64, (2, 2, 16), generator=generator).to(device)
        optimizer.zero_grad()
        loss = model(ids, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def stepped(method: Method, w: Tensor, grads: Sequence[Tensor]) -> tuple[Tensor, Any]:
    """A model's only weight after one step for each gradient, and its optimizer."""
    model = one_matrix(w)
    optimizer = method.prepare(model)
    p = next(model.parameters())
    for grad in grads:
        p.grad = grad.clone()
        optimizer.step()
    return p.detach(), optimizer


def the_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Of an only weight."""
    return next(iter(optimizer.state.values()))


def drift(a: nn.Module, b: nn.Module, start: nn.Module) -> float:
    """The largest difference of a weight, relative to the largest distance that weight has travelled."""
    weights = zip(a.parameters(), b.parameters(), start.parameters(), strict=True)
    return max(((p - q).abs().max() / (q - s).abs().max()).item() for p, q, s in weights)


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes alive at once beyond those alive before, by torch's own allocator events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        work()
    assert prof.profiler is not None and prof.profiler.kineto_results is not None
    events = [event for event in prof.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
