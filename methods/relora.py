"""ReLoRA: LoRA whose adapters are merged into the weight now and then and begun afresh, so that ranks add up.

Lialin et al. 2023, arXiv:2307.05695; follows Guitaricet/relora (176f376), layer and AdamW as in `lora`.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

After every `reset_every` updates: W += (alpha / R) B A in place, A anew, B zero; the adapters' moments lose the share
`prune` of their entries at random; the learning rate of everything climbs back linearly over `restart_warmup`
steps, on top of any scheduler of the user's (group["lr"] itself does not change). Step counts are not reset, so
bias correction stays off. The function of the model does not change at a merge, up to rounding.

What differs, and what to know:
* The repository's ReLoRaModel sets A to zero as well as B, so both gradients vanish until the first merge and the
  first cycle trains embeddings, head and norms alone. Ours begins as after every merge: A random.
* The repository prunes by magnitude (its README advises 0.9) or at random; its "full reset", our default, is random
  with 0.999, because true zeroing broke ZeRO. It draws in the moments' dtype, where 0.999 falls between the last bf16
  number below 1 and 1: its bf16 moments are zeroed altogether. Ours keep one entry in a thousand in any dtype. As
  there, exp_avg and exp_avg_sq are drawn apart; the learning rate near zero is what makes that safe.
* The repository spends an update at learning rate 0 and merges after it, at update k * reset_every + 1; ours merges
  straight after update k * reset_every, with the same weights (its moments have seen one gradient more). The next
  updates run at 1/restart_warmup, 2/restart_warmup, ... in both.
* Its scheduler climbs to the cosine's value at the end of the climb, ours to the value at each step; its dropout
  of 0.1 is left out (see `lora`). It makes B A and its scaled copy, (M, N) each; our merge is one addmm in place.
* It merges in the parameter dtype, and so do we: in bf16 an update below half an ulp of W is lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Weight, known_rank
from memprof.methods.adamw import FusedAdamW
from memprof.methods.lora import LoRA, LoRALinear
from memprof.optimizer import Periodic
from memprof.setting import setting

MASK_BYTES = 1
"""one bool for each element of the moment that is being pruned"""


@torch.no_grad()
def merge_(layer: LoRALinear) -> None:
    """W += scaling B A in place; A afresh, B zero: the same function, and a new subspace to learn in."""
    layer.weight.addmm_(layer.lora_B.weight, layer.lora_A.weight, alpha=layer.scaling)
    layer.reset_adapter()


def prune_(moment: Tensor, ratio: float) -> None:
    """Zero each entry with probability `ratio`. Scratch: one bool mask; a product with it would copy it wider."""
    dropped = torch.empty_like(moment, dtype=torch.bool).bernoulli_(ratio)
    moment.masked_fill_(dropped, 0)


def restart_factor(since_merge: int, warmup: int) -> float:
    """What the learning rate is multiplied by in the update number `since_merge` after a merge (the first is 1)."""
    return min(1.0, since_merge / max(1, warmup))


class ReLoRAOptimizer(Periodic, FusedAdamW):
    """AdamW that merges and restarts after every `reset_every` updates, or after a step it was asked to."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        layers: list[LoRALinear],
        *,
        reset_every: int,
        restart_warmup: int,
        prune: float,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.layers = layers
        self.reset_every = reset_every
        self.restart_warmup = restart_warmup
        self.prune = prune
        # Host counters live in a parameter group, so that a state dict carries them; before the first merge: warm.
        self.param_groups[0].update(updates=0, since_merge=restart_warmup)

    def update(self) -> None:
        counters = self.param_groups[0]
        counters["updates"] += 1
        counters["since_merge"] += 1
        factor = restart_factor(counters["since_merge"], self.restart_warmup)
        for group in self.param_groups:
            self.update_group(group, group["lr"] * factor)
        if self.take_request() or counters["updates"] % self.reset_every == 0:
            for layer in self.layers:
                self._restart(layer)
            counters["since_merge"] = 0

    def _restart(self, layer: LoRALinear) -> None:
        merge_(layer)
        for factor in (layer.lora_A.weight, layer.lora_B.weight):
            state = self.state.get(factor, {})
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    prune_(state[key], self.prune)


@dataclass(frozen=True, slots=True)
class ReLoRA(LoRA):
    """LoRA with a merge and a restart every `reset_every` steps."""

    name: ClassVar[str] = "relora"
    paper: ClassVar[str] = "arXiv:2307.05695"

    # README for 250m: lr 1e-3, reset 5000, warmup 100; its 1b config: rank 128, lr 4e-4, reset 1000. "Approximations
    # may be all you need": rank 256, lr 1.5e-3, reset 2500 or 10000, warmup 100. All: alpha 32, no weight decay
    reset_every: int = setting(5000, "steps between merges", least=1)
    restart_warmup: int = setting(100, "steps over which the learning rate climbs back after a merge", least=0)
    prune: float = setting(0.999, "share of the adapters' moments zeroed at a merge, at random", least=0, most=1)

    def prepare(self, model: nn.Module) -> ReLoRAOptimizer:
        layers = self.adapt(model)
        return ReLoRAOptimizer(
            (p for p in model.parameters() if p.requires_grad),
            layers,
            reset_every=self.reset_every,
            restart_warmup=self.restart_warmup,
            prune=self.prune,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def formula(self, weight: Weight) -> Footprint:
        """LoRA's; a merge works in place, and its most is the bool mask over one moment of the larger factor:
        (R, N) or (M, R), one byte an element, made and freed four times a layer.
        """
        plain = LoRA.formula(self, weight)
        if not weight.is_matrix:
            return plain
        mask = known_rank(self.name, self.rank) * max(weight.shape) * MASK_BYTES
        return dataclasses.replace(plain, refresh=mask)

    def refresh_steps(self, horizon: int) -> range:
        return range(self.reset_every - 1, horizon, self.reset_every)
