"""Merge and reinitialise: no method, but what ReLoRA and the methods after it share, whatever adapter they put in.

Lialin et al. 2023, arXiv:2307.05695, and "Approximations may be all you need" (NeurIPS 2024), which merges DoRA, PiSSA
and a QR decomposition in the same way. Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

After every `reset_every` updates each layer folds its adapter into W and begins a new one (`merge_`, its own affair);
the adapters' moments lose the share `prune` of their entries; the learning rate of everything climbs back linearly over
`restart_warmup` steps, on top of any scheduler of the user's (group["lr"] itself does not change). Step counts are not
reset, so bias correction stays off. Both moments are pruned apart, and where B begins at zero A has no gradient in the
next update: an entry of A whose exp_avg survives and whose exp_avg_sq does not moves by lr * exp_avg / eps there. A
climb that is not short, or `prune` = 1, keeps that small.

Pruning. `random` zeroes each entry with probability `prune`: one bool an element. `magnitude` zeroes what is at most
the quantile `prune` of the moment's own magnitudes, as Guitaricet/relora does with torch.quantile, which refuses more
than 16 million elements: their fp32 copy, that copy sorted, and int64 indices, 16 bytes an element (and, inside the
sort's kernel, 8 more on a CPU).

Warm start. Until update number `warm_start` the model is the plain one under full-rank AdamW. Then the adapters are
made, W is frozen, its gradient and its moments are dropped, and the learning rate climbs as after a merge; merges are
counted from there. `optimizer.switch()` does it at once, and so do loading a model's or an optimizer's state that was
stored after the switch. Formula, trace and measurement describe the steps after it; those before cost what `adamw`
costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memprof.method import named_weights
from memprof.methods.parts.fused_adamw import AdamWFields, FusedAdamW
from memprof.optimizer import Periodic

MASK_BYTES = 1
"""one bool for each element of the moment that is being pruned"""
FP32, INT64 = 4, 8


def prune_(moment: Tensor, ratio: float) -> None:
    """Zero each entry with probability `ratio`. Scratch: one bool mask; a product with it would copy it wider."""
    dropped = torch.empty_like(moment, dtype=torch.bool).bernoulli_(ratio)
    moment.masked_fill_(dropped, 0)


def prune_by_magnitude_(moment: Tensor, ratio: float) -> None:
    """Zero what is at most the quantile `ratio` of the magnitudes (interpolated, in the moment's dtype)."""
    size = moment.to(torch.promote_types(moment.dtype, torch.float32), copy=True).abs_()
    ordered = size.flatten().sort().values
    place = ratio * (ordered.numel() - 1)
    below, above = ordered[int(place)], ordered[min(int(place) + 1, ordered.numel() - 1)]
    quantile = torch.lerp(below, above, place - int(place)).to(moment.dtype)
    del ordered, below, above
    moment.masked_fill_(size <= quantile, 0)


PRUNE: dict[str, Callable[[Tensor, float], None]] = {"random": prune_, "magnitude": prune_by_magnitude_}


def prune_bytes(by: str, numel: int, itemsize: int) -> int:
    """random: the mask (numel,) bool. magnitude: |moment| w + sorted w + indices int64, w = 4 bytes (8 for fp64)."""
    return numel * (MASK_BYTES if by == "random" else 2 * max(FP32, itemsize) + INT64)


def restart_factor(since_merge: int, warmup: int) -> float:
    """What the learning rate is multiplied by in the update number `since_merge` after a merge (the first is 1)."""
    return min(1.0, since_merge / max(1, warmup))


class Adapted(Protocol):
    """A layer with an adapter that can be folded into its weight."""

    def adapter(self) -> Sequence[Tensor]: ...
    def merge_(self) -> None: ...


class Settings(AdamWFields, Protocol):
    """What the optimizer asks of a method that restarts."""

    @property
    def reset_every(self) -> int: ...
    @property
    def restart_warmup(self) -> int: ...
    @property
    def prune(self) -> float: ...
    @property
    def prune_by(self) -> str: ...
    @property
    def warm_start(self) -> int: ...
    def adapt(self, model: nn.Module) -> Sequence[Adapted]: ...


class RestartOptimizer(Periodic, FusedAdamW):
    """AdamW that goes over to its method's adapters after a warm start, then merges them on schedule or when asked."""

    takes_groups = False

    def __init__(self, model: nn.Module, method: Settings) -> None:
        params = (p for p in model.parameters() if p.requires_grad)
        super().__init__(params, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.model, self.method = model, method
        self.layers: Sequence[Adapted] = []
        self._hook: RemovableHandle | None = None
        # Host counters live in a parameter group, so that a state dict carries them. `begun` is the update after
        # which the adapters were made, -1 before; before the first merge the learning rate is up already.
        self.param_groups[0].update(updates=0, begun=-1, since_merge=method.restart_warmup)
        if method.warm_start:
            self._hook = switch_on_loading(model, self)
        else:
            self.switch()

    def switch(self) -> None:
        """Begin with the adapters now: they are made, their weights frozen, the weights' gradients and moments gone."""
        if self.layers:
            return
        counters = self.param_groups[0]
        for weight, parameter in named_weights(self.model):
            if weight.is_matrix:
                self.state.pop(parameter, None)
                parameter.grad = None
        self.layers = self.method.adapt(self.model)
        if self._hook is not None:
            self._hook.remove()
        counters["params"] = [p for p in self.model.parameters() if p.requires_grad]
        counters["begun"] = counters["updates"]
        counters["since_merge"] = 0 if counters["updates"] else self.method.restart_warmup

    def update(self) -> None:
        counters = self.param_groups[0]
        counters["updates"] += 1
        counters["since_merge"] += 1
        factor = restart_factor(counters["since_merge"], self.method.restart_warmup)
        for group in self.param_groups:
            self.update_group(group, group["lr"] * factor)
        asked = self.take_request()
        if not self.layers:
            if asked or counters["updates"] >= self.method.warm_start:
                self.switch()
        elif asked or (counters["updates"] - counters["begun"]) % self.method.reset_every == 0:
            self.restart()

    def restart(self) -> None:
        """Merge every layer and prune its adapter's moments, layer by layer; the learning rate climbs again."""
        for layer in self.layers:
            self._restart(layer)
        self.param_groups[0]["since_merge"] = 0

    def _restart(self, layer: Adapted) -> None:
        layer.merge_()
        for parameter in layer.adapter():
            state = self.state.get(parameter, {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    PRUNE[self.method.prune_by](state[key], self.method.prune)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["param_groups"][0]["begun"] >= 0:
            self.switch()
        super().load_state_dict(state_dict)


def switch_on_loading(model: nn.Module, optimizer: RestartOptimizer) -> RemovableHandle:
    """Let a model that is still in its warm start take a state that was stored after the switch."""

    def hook(loading: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: object) -> None:
        # A copy of the model has this hook too (a function is not copied), and none of its layers are ours.
        if loading is model and any(key.startswith(prefix) and ".lora_" in key for key in state_dict):
            optimizer.switch()

    handle: RemovableHandle = model.register_load_state_dict_pre_hook(hook)
    return handle
