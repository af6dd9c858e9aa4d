"""GaLore-mini: GaLore's low-rank first moment, Adam-mini's one second moment per block.

Huang et al. 2024, "GaLore-mini: Low Rank Gradient Learning with Fewer Learning Rates", NeurIPS 2024 workshop. No code
was published. Subspace, scale and gap are GaLore's, blocks and second moment Adam-mini 1.1's; the gap grows by
Q-GaLore's rule (`lazy`), which the paper names and does not spell out. The step is in galore_mini_optimizer.py.

Shapes: a weight is (M, N), out and in; S and L are its shorter and longer side; R is the rank; B the number of blocks,
n the elements of a weight. The paper's three approaches, of which only the third trained stably:
1. the second moment is of the low-rank gradient, whose rows are the blocks: the output rows (or heads) of a tall
   weight, the R coordinates of a wide one, which none of Adam-mini's neurons is;
2. it is of the full gradient, by Adam-mini's blocks, and divides the low-rank first moment. How M rows divide R
   coordinates the paper does not say. Read here as each coordinate's root mean square of the rows' divisors, weighted
   by its squared basis vector. A tall weight keeps its rows under the projection and is treated as in approach 3;
3. GaLore-mini: it is of the full gradient and divides the first moment after that is back at full size.

The printed algorithm has slips. Read here as the text around it says:
* V is updated with the square of the gradient G, as step 2 and approach 3 say, not with the projected one;
* M is divided by 1 - beta1^t, as V by 1 - beta2^t, not by 1 - beta1;
* the divisor is sqrt(V) + eps as in figure 5, not sqrt(V + eps) as in algorithm 1 or V + eps as in step 6;
* the update is subtracted: W = W - lr * scale * ..., where step 7 adds.
Embedding, head and norms take Adam-mini (the paper does not say; its table counts no second moment there). Decay comes
before the update and spares norms, as in Adam-mini. What is not stated follows GaLore: lr, scale, gap, eps.
In pure fp16 the block means and eps underflow, as in Adam-mini: use bf16 or fp32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from memprof.method import (
    BASIS,
    BLOCK_MEANS,
    Footprint,
    RankedMethod,
    Weight,
    bound_rank,
    known_rank,
    largest_nbytes,
    named_weights,
)
from memprof.methods.adam_mini import num_blocks
from memprof.methods.parts.divisors import COLUMNS, NONE, ROWS, SEEN
from memprof.methods.parts.galore_mini_optimizer import GaLoreMiniOptimizer
from memprof.methods.parts.projection import is_tall, refresh_bytes
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class GaLoreMini(RankedMethod):
    """GaLore whose second moment is one number per block of the full gradient."""

    name: ClassVar[str] = "galore-mini"
    paper: ClassVar[str] = "Huang et al., GaLore-mini, NeurIPS 2024 workshop"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by Adam-mini"

    approach: int = setting(
        3, "which of the paper's three ways to combine both; only 3 is stable", least=1, most=3, papers="3"
    )
    rank: int | None = setting(
        None,
        "rank of the subspace; a quarter of the smallest side, at most 256",
        least=1,
        papers="as GaLore: 256/256/512 for 130m/350m/1b",
    )
    update_gap: int = setting(
        200, "steps from one subspace to the next, before the gap grows", least=1, papers="as GaLore: 200"
    )
    cos_threshold: float = setting(
        0.4, "mean cosine of first basis vectors at which the gap grows", most=1, papers="as Q-GaLore: 0.4"
    )
    gamma: float = setting(2.0, "factor by which the gap grows; 1 keeps it", least=1, papers="as Q-GaLore: 2")
    queue_size: int = setting(5, "how many cosines the mean is over", least=1, papers="as Q-GaLore: 5")
    scale: float = setting(0.25, "factor on the low-rank update", above=0, papers="as GaLore: 0.25")
    lr: float = setting(0.01, "learning rate", above=0, papers="as GaLore: 0.01")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, of matrices only", least=0)

    def prepare(self, model: nn.Module) -> GaLoreMiniOptimizer:
        return GaLoreMiniOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        """The schedule without laziness: an upper bound, because data decide when a gap grows."""
        return range(0, horizon, self.update_gap)

    def divides(self, weight: Weight) -> str:
        """What a weight's second moments divide: with wide weights the approaches differ."""
        if not weight.is_matrix:
            return NONE if len(weight.shape) > 1 else ROWS
        return ROWS if is_tall(weight.shape) else {1: COLUMNS, 2: SEEN, 3: ROWS}[self.approach]

    def blocks(self, weight: Weight) -> int:
        """B: Adam-mini's, of the weight itself or, in approach 1, of its low-rank gradient."""
        return known_rank(self.name, self.rank) if self.divides(weight) == COLUMNS else num_blocks(weight)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: exp_avg (R, L) + vmean (B, 1) + basis (R, S). Others: exp_avg (n,) + vmean (B, 1), of a norm ().

        B: Adam-mini's blocks; of a wide weight in approach 1 its R coordinates.
        Transient: divisors (B, 1), and what is divided: for a matrix a factor (M, R), for a vector (n,). Approach 1:
        the low-rank gradient (R, L) of a matrix; approach 2: column norms (R,) of a wide one. All in the parameter
        dtype.
        """
        rank, blocks = known_rank(self.name, self.rank), self.blocks(weight)
        if weight.is_matrix:
            bound_rank(self.name, rank, [weight])
        elements = rank * sum(weight.shape) if weight.is_matrix else weight.numel
        basis = rank * min(weight.shape) * weight.itemsize if weight.is_matrix else 0
        divided = rank * weight.shape[0] if weight.is_matrix else weight.numel
        divided = {NONE: 0, SEEN: divided + rank}.get(self.divides(weight), divided)
        low = rank * max(weight.shape) if weight.is_matrix and self.approach == 1 else 0
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=(elements + blocks) * weight.itemsize,
            parts={BASIS: basis, BLOCK_MEANS: blocks * weight.itemsize},
            transient=(low + blocks + divided) * weight.itemsize,
            refresh=refresh_bytes(weight, rank) if weight.is_matrix else 0,
        )
