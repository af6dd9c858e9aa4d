"""GaLore: AdamW on gradients projected into their own top singular subspace.

Zhao et al. 2024, "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection", arXiv:2403.03507.
Follows the authors' galore_torch 1.0: its projection types as `side`, its three optimizers as `inner`, and with
`per_layer` the per-layer mode of its torchrun_main.py, which updates every weight inside backward and drops its
gradient at once. Attention and MLP matrices are projected (projection.py, sides.py); embedding, head and norms take
the inner optimizer as it is (galore_inner.py, galore_compact.py).

Shapes: a weight is (M, N); S and L are its shorter and longer side; R is the rank. With the default side the basis is
R * S elements and each moment R * L; with "full" the bases are R * (M + N) and each moment R * R.

Where this and the authors' code differ:
* they take the SVD of the gradient, here are the eigenvectors of its Gram matrix, with a rule for their signs;
* in fp32 runs they keep a view of U or V^T, which keeps the whole S x S factor alive (M x N with "reverse_std", both
  with "full"); the basis here is a copy;
* they project, update and add back with full-size temporaries; here one kernel updates the moments of many weights
  and one matrix product folds learning rate, scale and decay into the weight;
* their per-layer mode has an optimizer and a scheduler for each weight, and doubles gap and warm-up; here one
  optimizer does it, steps are counted in its `step`, which finds no gradient left, and a gap is a gap;
* published figures of its state often leave the basis out; the formula here counts it.

Pitfall: under "full" the low-rank gradient of a refresh is diagonal but for rounding, and Adam makes that as large as
the rest wherever eps is below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from memprof.errors import MemprofError
from memprof.method import BASIS, Footprint, Method, Weight, bound_rank, known_rank, named_weights
from memprof.methods.adafactor import Adafactor
from memprof.methods.parts.galore_compact import INNERS, make_inner
from memprof.methods.parts.galore_inner import Inner, InnerMethod
from memprof.methods.parts.galore_optimizer import GaLoreOptimizer
from memprof.methods.parts.sides import SIDES, Projection
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class GaLore(InnerMethod):
    """Low-rank gradients by projection on their top singular vectors, AdamW on them, full-rank weights."""

    name: ClassVar[str] = "galore"
    paper: ClassVar[str] = "arXiv:2403.03507"

    rank: int | None = setting(
        None,
        "rank of the subspace; a quarter of the smallest side, at most 256",
        least=1,
        papers="128/256/256/512/1024 for 60m/130m/350m/1b/7b",
    )
    update_gap: int = setting(
        200, "steps from one subspace to the next", least=1, papers="200; 500 for 7b; the authors' command line 50"
    )
    scale: float = setting(0.25, "factor on the low-rank update", papers="0.25; the authors' command line 1", above=0)
    side: str = setting("std", "which side of a matrix is projected; std: the shorter, full: both", choices=SIDES)
    inner: str = setting(
        "adamw",
        "the optimizer inside the subspace, and of the other weights",
        choices=INNERS,
        papers="adamw, adafactor; adamw-8bit for 7b",
    )
    beta1: float | None = setting(
        None, "first moment of inner adafactor; none keeps none", least=0, below=1, papers="0.9"
    )
    per_layer: bool = setting(False, "update each weight inside backward and drop its gradient at once")
    lr: float = setting(0.01, "learning rate", papers="0.01; 0.005 for 7b", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-6, "added to the root of the second moment before its bias correction", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, after the update", least=0, papers="0")

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if self.beta1 is not None and self.inner != "adafactor":
            here = f"{self.inner} takes betas={self.beta1:g}/{self.betas[1]:g}"
            raise MemprofError(f"{self.name}: beta1={self.beta1:g} needs inner=adafactor; {here}")

    def prepare(self, model: nn.Module) -> GaLoreOptimizer:
        return GaLoreOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    @property
    def inner_optimizer(self) -> Inner:
        return make_inner(self.inner, Adafactor(beta1=self.beta1))

    def projection(self, weight: Weight) -> Projection:
        return Projection.of(weight.shape, known_rank(self.name, self.rank), self.side)

    @property
    def updates(self) -> Literal["step", "backward"]:
        return "backward" if self.per_layer else "step"

    @property
    def update_scalars(self) -> int:
        return self.inner_optimizer.scalars

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def scratch(self, weight: Weight) -> int:
        """Low-rank gradient + what the inner optimizer wants beside it + what two bases need between them."""
        way, inner = self.projection(weight), self.inner_optimizer
        elements = inner.buffers * way.low[0] * way.low[1] + way.between[0] * way.between[1]
        return elements * weight.itemsize + inner.scratch_bytes(way.low, weight.itemsize)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: basis (R, S) + the inner optimizer's moments of the low-rank gradient (R, L).

        Inner adamw: exp_avg + exp_avg_sq, (R, L) each, in the parameter dtype; no step tensor. Adafactor: row + column
        moments, (R,) + (L,) fp32, [exp_avg (R, L) fp32 with beta1]. Side reverse_std: basis (R, L), moments of (R, S);
        full: bases (R, M) + (R, N), moments of (R, R). Other weights: the inner optimizer as it is.
        """
        rank, inner = known_rank(self.name, self.rank), self.inner_optimizer
        if not weight.is_matrix:
            return inner.footprint(weight)
        bound_rank(self.name, rank, [weight])
        way = self.projection(weight)
        bases = sum(m * n for m, n in way.bases.values()) * weight.itemsize
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=bases + inner.state_bytes(way.low, weight.itemsize),
            parts={BASIS: bases},
            transient=self.scratch(weight),
            refresh=way.refresh_bytes(weight),
        )
