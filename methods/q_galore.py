"""Q-GaLore: GaLore with integer weights, a 4-bit projector, and subspaces that are computed ever more rarely.

Zhang et al. 2024, "Q-GaLore: Quantized GaLore with INT4 Projection and Layer-Adaptive Low-Rank Gradients",
arXiv:2407.08296. Follows the authors' q_galore_torch 1.0 and its pre-training script. Of attention and MLP matrices the
weight is kept in 8-bit integers (integer_linear.py), the basis in 4-bit ones (integer_basis.py, quantiser in
integers.py); an update reads both back, adds, and rounds the weight stochastically. Each matrix has a gap of its own,
which grows while its subspace stays (lazy.py). Embedding, head and norms take the inner optimizer as it is.

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank; G(n) = ceil(n / 256) the groups of a
tensor of n elements. Tall and square weights are projected from the right, wide ones from the left, as in GaLore.

Where this and the authors' code differ:
* they store a 4-bit code a byte, R S bytes a basis; here two codes a byte, as the paper counts, R S / 2;
* they keep the full-rank gradient in an attribute of the weight; here it is that of an anchor, one element of storage;
* they take the SVD of the gradient; here are the eigenvectors of its Gram matrix, with a rule for their signs;
* their quantiser clips groups that do not reach over zero, and its random numbers are coarse in bf16 (integers.py). In
  bf16 large codes are rounded before any stochastic rounding sees them, there and here: the sum W + update is bf16;
* they update weight by weight with several copies of it; here as many together as the largest weight has bytes for;
* their optimizer is bitsandbytes' 8-bit AdamW. Inner adamw is the same with moments as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from memprof.method import BASIS, Footprint, Weight, bound_rank, known_rank, named_weights
from memprof.methods.parts.galore_compact import AdamW8bitInner
from memprof.methods.parts.galore_inner import Inner, InnerMethod
from memprof.methods.parts.integer_basis import BasisStore
from memprof.methods.parts.integer_linear import WeightStore
from memprof.methods.parts.integers import Integers
from memprof.methods.parts.lazy import LazyRefresh
from memprof.methods.parts.q_galore_optimizer import CorrectedAdamW, QGaLoreOptimizer
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class QGaLore(InnerMethod):
    """GaLore on integer weights, with an integer basis and a gap that grows."""

    name: ClassVar[str] = "q-galore"
    paper: ClassVar[str] = "arXiv:2407.08296"

    rank: int | None = setting(None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one subspace to the next, before the gap grows", least=1, papers="200")
    cos_threshold: float = setting(
        0.4, "mean cosine of first basis vectors at which the gap grows", most=1, papers="0.4"
    )
    gamma: float = setting(2.0, "factor by which the gap grows; 1 keeps it", least=1, papers="2")
    queue_size: int = setting(5, "how many cosines the mean is over", least=1, papers="5")
    weight_bits: int = setting(
        8, "of an element of a matrix; 16: no integers, the model's dtype", choices=(8, 16), papers="8"
    )
    proj_bits: int = setting(
        4, "of an element of a basis; 16: no integers, the model's dtype", choices=(4, 8, 16), papers="4"
    )
    group_size: int = setting(256, "elements that share a scale and a zero point", least=2, papers="256")
    inner: str = setting(
        "adamw-8bit", "the optimizer inside the subspace", choices=("adamw-8bit", "adamw"), papers="adamw-8bit"
    )
    scale: float = setting(0.25, "factor on the low-rank update", above=0, papers="0.25")
    lr: float = setting(0.01, "learning rate", above=0, papers="0.015 for 60m, 0.01 for 350m, 0.004 for 7b")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, after the update", least=0)
    seed: int = setting(0, "of stochastic rounding", least=0, below=2**31)

    def prepare(self, model: nn.Module) -> QGaLoreOptimizer:
        bound = self.bind(weight for weight, _ in named_weights(model))
        self.weight_store.adapt(model)
        return QGaLoreOptimizer(
            model,
            bound,
            inner=self.inner_optimizer,
            lazy=LazyRefresh.of(self),
            bases=self.basis_store,
            rank=known_rank(self.name, bound.rank),
            scale=self.scale,
            seed=self.seed,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    @property
    def weight_store(self) -> WeightStore:
        return WeightStore(Integers(self.weight_bits, self.group_size) if self.weight_bits < 16 else None)

    @property
    def basis_store(self) -> BasisStore:
        return BasisStore(Integers(self.proj_bits, self.group_size) if self.proj_bits < 16 else None)

    @property
    def inner_optimizer(self) -> Inner:
        return AdamW8bitInner() if self.inner == "adamw-8bit" else CorrectedAdamW()

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        """The schedule without laziness: an upper bound, because data decide when a gap grows."""
        return range(0, horizon, self.update_gap)

    def scratch(self, weight: Weight) -> tuple[int, int]:
        """Of one weight, in the inner optimizer's update, and where the weight is read back."""
        inner, e = self.inner_optimizer, weight.itemsize
        if not weight.is_matrix:
            return inner.footprint(weight).transient, 0
        rank, (short, long) = known_rank(self.name, self.rank), sorted(weight.shape)
        held = self.basis_store.scratch_bytes(rank * short, e) + inner.buffers * rank * long * e
        return held + inner.scratch_bytes((long, rank), e), held + self.weight_store.scratch_bytes(weight)

    def scratch_together(self, weights: Sequence[Weight]) -> int:
        """The most of two instants: the inner optimizer's update, and the weights read back beside its results."""
        parts = [self.scratch(weight) for weight in weights]
        inside, after = sum(part for part, _ in parts), sum(part for _, part in parts)
        return max(inside + self.inner_optimizer.scalars, after)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: codes (M, N) uint8 + scale and zero (G(M N), 1) + anchor (), its gradient (M, N); basis R S / 2
        bytes + scale and zero (G(R S), 1) + first singular vector (S,); the inner optimizer's moments of the low-rank
        gradient (R, L). All but the codes and 8-bit moments in the parameter dtype. Once: the 8-bit maps. Other
        weights: the inner optimizer as it is. The published code stores the basis in R S bytes.

        Transient: basis, low-rank gradient and update (R, L) each, and first what the inner optimizer wants, then the
        weight (M, N) twice + scale and zero. In backward W (M, N), then its gradient. Scratch is of whole groups.
        """
        rank, inner = known_rank(self.name, self.rank), self.inner_optimizer
        if not weight.is_matrix:
            return inner.footprint(weight)
        bound_rank(self.name, rank, [weight])
        side, e = min(weight.shape), weight.itemsize
        moments = inner.state_bytes((max(weight.shape), rank), e)
        return Footprint(
            param=self.weight_store.param_bytes(weight),
            grad=weight.nbytes,
            optimizer_state=self.basis_store.state_bytes(rank * side, e) + side * e + moments,
            parts={BASIS: self.basis_store.state_bytes(rank * side, e)},
            backward=self.weight_store.backward(weight),
            transient=max(self.scratch(weight)),
            refresh=self.basis_store.refresh_bytes(weight, rank),
        )
