"""AdaMeM: Adafactor on the whole gradient, with momentum in its top singular subspace alone.

Vyas, Morwani and Kakade 2024, "AdaMeM: Memory Efficient Momentum for Adafactor", ICML workshop WANT,
openreview fZqMVTz7K5. Only its abstract is at hand, and no code: momentum "on a low rank subspace of the weights on top
of Adafactor", where "unlike low rank optimizers we still utilize full rank gradients but maintain momentum only on the
top SVD subspace of the gradients". What follows is a reading of that, not the paper's equations. Of a matrix,

    R = P^T G        S = G - P R        W = W - lr (P Adafactor with momentum(R) + Adafactor(S))

so that it is GaLore with Adafactor and a first moment inside (see `galore`), which also uses what projecting leaves
out. R and S have factored second moments of their own, S and all other weights no momentum. Both Adafactors are
Hugging Face's with a given learning rate, and each clips its update to an RMS of 1: of full size the low-rank part then
has an RMS of sqrt(R / S), S here the shorter side.

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank. Moments are fp32, as in `adafactor`.
S takes the gradient's place in `p.grad`, so that it costs no tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from memprof.method import Footprint, RankedMethod, Weight, known_rank, named_weights
from memprof.methods.adafactor import Adafactor
from memprof.methods.galore import GaLore
from memprof.methods.parts.galore_compact import AdafactorInner
from memprof.methods.parts.galore_optimizer import GaLoreOptimizer
from memprof.methods.parts.sides import SIDES
from memprof.optimizer import Group
from memprof.setting import setting

PLAIN = AdafactorInner(Adafactor())
"""without momentum"""


class AdaMeMOptimizer(GaLoreOptimizer):
    """GaLore's optimizer with Adafactor inside, and Adafactor on what projecting leaves out and on all other weights.

    state[p] of a matrix: basis, exp_avg, exp_avg_sq_row and exp_avg_sq_col of the low-rank gradient, and under
    "residual" the rows and columns of the rest.
    """

    def _make_state(self, p: Tensor) -> bool:
        new = super()._make_state(p)
        if new:
            self.state[p]["residual"] = PLAIN.new_state(p, p.shape)
        return new

    def keep_rests(self, params: Sequence[Tensor], lows: Sequence[Tensor], betweens: Sequence[Tensor]) -> None:
        """S, and its step; the weights decay later, with the step in the subspace."""
        (matrices,) = (group for group in self.param_groups if group["matrices"])
        for p, low, between in zip(params, lows, betweens, strict=True):
            assert p.grad is not None
            left, right = self.projection_of[p].factors(low, self.state[p], between)
            p.grad.addmm_(left, right, alpha=-1)
        residuals = [self.state[p]["residual"] for p in params]
        PLAIN.update_weights(list(params), residuals, {**matrices, "weight_decay": 0.0})

    def update_others(self, params: list[Tensor], group: Group) -> None:
        PLAIN.update_plain(self.state, params, group)


@dataclass(frozen=True, slots=True)
class AdaMeM(RankedMethod):
    """Adafactor with momentum in the gradient's top singular subspace, without it elsewhere."""

    name: ClassVar[str] = "adamem"
    paper: ClassVar[str] = "openreview.net fZqMVTz7K5"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by Adafactor without momentum"

    rank: int | None = setting(None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one subspace to the next", least=1)
    side: str = setting("std", "which side of a matrix is projected; std: the shorter, full: both", choices=SIDES)
    lr: float = setting(1e-3, "learning rate", above=0)
    beta1: float = setting(0.9, "decay of the averaged updates in the subspace", least=0, below=1)
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)

    def prepare(self, model: nn.Module) -> AdaMeMOptimizer:
        return AdaMeMOptimizer(model, self.bind(weight for weight, _ in named_weights(model)).in_subspace)

    @property
    def in_subspace(self) -> GaLore:
        """What it does with the low-rank gradient, and when."""
        return GaLore(
            rank=known_rank(self.name, self.rank),
            update_gap=self.update_gap,
            scale=1.0,
            side=self.side,
            inner="adafactor",
            beta1=self.beta1,
            lr=self.lr,
            weight_decay=self.weight_decay,
        )

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: basis (R, S) in the parameter dtype + exp_avg (R, L) + rows and columns of R, (L,) and (R,), and of
        S = G - P R, (M,) and (N,), all fp32. Transient: R (R, L) in the parameter dtype, and beside it the larger of
        what the two Adafactors take (see `galore` and `adafactor`). Other weights: Adafactor's, without momentum.
        """
        rest = PLAIN.footprint(weight)
        if not weight.is_matrix:
            return rest
        galore = self.in_subspace
        low = galore.formula(weight)
        own = galore.inner_optimizer.scratch_bytes(galore.projection(weight).low, weight.itemsize)
        return dataclasses.replace(
            low,
            optimizer_state=low.optimizer_state + rest.optimizer_state,
            transient=low.transient - own + max(own, rest.transient),
        )
