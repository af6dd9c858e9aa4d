"""ReLoRA: LoRA whose adapters are merged into the weight now and then and begun afresh, so that ranks add up.

Lialin et al. 2023, arXiv:2307.05695; follows Guitaricet/relora (176f376), layer and AdamW as in `lora`. What happens
at a merge besides, and the warm start from full-rank training, is the family's: see `restart`.
Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

After every `reset_every` updates: W += (alpha / R) B A in place, A anew, B zero. The function of the model does not
change at a merge, up to rounding.

What differs, and what to know:
* The repository's ReLoRaModel sets A to zero as well as B, so both gradients vanish until the first merge and the
  first cycle trains embeddings, head and norms alone. Ours begins as after every merge: A random.
* The repository prunes by magnitude (its README advises 0.9) or at random; its "full reset", our default, is random
  with 0.999, because true zeroing broke ZeRO. It draws in the moments' dtype, where 0.999 falls between the last bf16
  number below 1 and 1: its bf16 moments are zeroed altogether. Ours keep one entry in a thousand in any dtype. As
  there, exp_avg and exp_avg_sq are pruned apart; the learning rate near zero is what makes that safe.
* The repository spends an update at learning rate 0 and merges after it, at update k * reset_every + 1; ours merges
  straight after update k * reset_every, with the same weights (its moments have seen one gradient more). The next
  updates run at 1/restart_warmup, 2/restart_warmup, ... in both.
* Its scheduler climbs to the cosine's value at the end of the climb, ours to the value at each step; its dropout
  of 0.1 is left out (see `lora`). It makes B A and its scaled copy, (M, N) each; our merge is one addmm in place.
* Its warm start loads a checkpoint of another run, without moments. Ours is the same run, and embeddings, head and
  norms keep theirs.
* It merges in the parameter dtype, and so do we: in bf16 an update below half an ulp of W is lost.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from memprof.method import Footprint, Weight, known_rank, named_weights
from memprof.methods.lora import LoRA
from memprof.methods.parts.restart import PRUNE, RestartOptimizer, prune_bytes
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class Restarting(LoRA):
    """A method that merges its adapters into the weights every `reset_every` steps and begins afresh."""

    rank: int | None = setting(
        None, "rank R of the adapters; default a quarter of the smallest side, <= 256", least=1, papers="128; later 256"
    )
    lr: float = setting(1e-3, "learning rate", above=0, papers="ReLoRA 1e-3, 4e-4 for 1b; later 1.5e-3")
    reset_every: int = setting(2500, "steps between merges", least=1, papers="ReLoRA 1000, 5000; later 2500, 10000")
    restart_warmup: int = setting(
        100, "steps over which the learning rate climbs back after a merge", least=0, papers="100"
    )
    prune: float = setting(
        0.999, "share of the adapters' moments zeroed at a merge", least=0, most=1, papers="0.999 random, 0.8, 0.9"
    )
    prune_by: str = setting("random", "which entries are zeroed: any, or those of least magnitude", choices=(*PRUNE,))
    warm_start: int = setting(
        0,
        "updates of full-rank AdamW before the adapters; figures are of the steps after, those before cost as adamw",
        least=0,
        papers="5000",
    )

    def prepare(self, model: nn.Module) -> RestartOptimizer:
        return RestartOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def formula(self, weight: Weight) -> Footprint:
        """The adapter's own; in a merge the larger of its own scratch and of one moment's pruning, which goes through
        the factors one by one: the larger has R * max(M, N) elements, of one byte (a bool mask) or, by magnitude,
        2 w + 8 (magnitudes, sorted, int64 indices; w = 4 bytes, 8 for fp64).
        """
        plain = super(Restarting, self).formula(weight)
        if not weight.is_matrix:
            return plain
        rank = known_rank(self.name, self.rank)
        pruning = prune_bytes(self.prune_by, rank * max(weight.shape), weight.itemsize)
        return dataclasses.replace(plain, refresh=max(pruning, self.merge_bytes(weight, rank)))

    def merge_bytes(self, weight: Weight, rank: int) -> int:
        """Most scratch while one layer merges; LoRA's merge works in place."""
        return 0

    def refresh_steps(self, horizon: int) -> range:
        """The merges; the switch of a warm start is not one of them."""
        return range(self.warm_start + self.reset_every - 1, horizon, self.reset_every)


@dataclass(frozen=True, slots=True)
class ReLoRA(Restarting):
    """LoRA with a merge and a restart every `reset_every` steps."""

    name: ClassVar[str] = "relora"
    paper: ClassVar[str] = "arXiv:2307.05695"

    reset_every: int = setting(5000, "steps between merges", least=1, papers="5000; 1000 for 1b; later 2500, 10000")

    def formula(self, weight: Weight) -> Footprint:
        """LoRA's; a merge works in place, and its most is the scratch of pruning one moment of the larger factor,
        (R, N) or (M, R), four times a layer: a bool mask, one byte an element; or, by magnitude, 16 bytes an element
        (magnitudes fp32 + sorted fp32 + indices int64).
        """
        return Restarting.formula(self, weight)
