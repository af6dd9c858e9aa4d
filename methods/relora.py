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

from dataclasses import dataclass
from typing import ClassVar

from memprof.method import Footprint, Weight
from memprof.methods.parts.restart import Restarting
from memprof.setting import setting


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
