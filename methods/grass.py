"""Grass: AdamW on a few rows of every gradient, and no other row's gradient is ever made.

Muhamed et al. 2024, "Grass: Compute Efficient Low-Memory LLM Training with Structured Sparse Gradients",
arXiv:2406.17660. Its repository, aashiqmuhamed/GRASS, holds no code: this follows the paper. Attention and MLP matrices
are treated; embedding, head and norms take AdamW. Shapes: a weight is (M, N), out x in; R is the rank.

The projector is sparse, P^T = rho B, where B picks R rows of the gradient G and rho scales them. So the projected
gradient is P^T G = (dY P)^T X (R, N), which backward makes out of R channels of dY; Adam's step of it goes back to R
rows of the weight. Every `update_gap` steps rows are chosen by their norms: the R largest (rho = 1), or drawn by the
squared norms q, with or without replacement, rho = 1 / sqrt(R q).

What to know:
* The paper projects the shorter side of a matrix and counts R N moments with M <= N. Rows are chosen here whatever the
  shape: R channels of the output, which a layer's backward has at hand; of a tall matrix R N is even less.
* For the norms a step that chooses makes the full gradient, one layer's at a time, inside backward. With several
  micro-batches the first one chooses, for its own gradient and the others'.
* With `reset` the moments and Adam's count of steps start anew with new rows; without, old moments are read as the new
  rows', as GaLore does.
* A row without gradient that was drawn all the same has scale 0, and waits for the next choice. A gradient that is not
  finite leaves the choice as it was.
* Without replacement the scales are those of the paper and the estimate is not unbiased; with it a row may be chosen
  twice, and a GPU adds the two updates in any order.
* Adam undoes a row's scale in its step, and the way back applies it again: rows with small norms take large steps.
* A weight is a buffer of its layer, under its old name; `weight_decay` shrinks all of its rows in every step.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.method import (
    Footprint,
    RankedMethod,
    Weight,
    bound_rank,
    groups,
    known_rank,
    largest_nbytes,
    named_weights,
    replace_matrices,
)
from memprof.methods.parts.galore_optimizer import like_views
from memprof.methods.parts.grass_linear import CHOICES, INT32_BYTES, TOP, GrassLinear, SelectedBackward
from memprof.optimizer import Group, KeepsDtypes, MatrixOptimizer, adamw_footprint, fused_adamw_, step_tensor
from memprof.setting import setting


class GrassOptimizer(KeepsDtypes, MatrixOptimizer):
    """Adam on the gradients of chosen rows for attention and MLP matrices, AdamW for the rest.

    state[p], p being the anchor of a matrix's layer: exp_avg and exp_avg_sq (R, N) in the parameter's dtype, step, and
    the layer's selection.
    """

    def __init__(self, model: nn.Module, method: Grass, scratch_limit: int) -> None:
        super().__init__(model, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay)
        self.method, self.scratch_limit = method, scratch_limit
        layers = [module for module in model.modules() if isinstance(module, GrassLinear)]
        self.layer_of: dict[Tensor, GrassLinear] = {layer.anchor: layer for layer in layers}
        for place, layer in enumerate(layers):
            moments = {key: layer.weight.new_zeros(layer.anchor.shape) for key in ("exp_avg", "exp_avg_sq")}
            selection = layer.new_selection((method.seed * 1_000_003 + place) % 2**32)
            self.state[layer.anchor] = {**moments, "step": 0, **selection}
        self._hand_out()

    def _hand_out(self) -> None:
        """Every layer reads and writes its selection in the optimizer's state."""
        for p, layer in self.layer_of.items():
            layer.selection = self.state[p]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._hand_out()
        for layer in self.layer_of.values():
            layer.due, layer.fresh = self.is_due(self.param_groups[1]["step"]), False

    def is_due(self, step: int) -> bool:
        return step % self.method.update_gap == 0

    def request_refresh(self) -> None:
        """Make the next backward choose rows."""
        for layer in self.layer_of.values():
            layer.due = True

    def update(self) -> None:
        super().update()
        if self.is_due(self.param_groups[1]["step"]):
            self.request_refresh()

    def update_matrices(self, params: Sequence[Tensor], group: Group, refresh: bool) -> None:
        self._begin_anew([p for p in params if self.layer_of[p].fresh])
        for p in params:
            self.state[p]["step"] += 1
        for batch in groups(params, lambda p: p.numel() * p.element_size(), self.scratch_limit):
            self._update_batch(batch, group)

    def _begin_anew(self, params: Sequence[Tensor]) -> None:
        """What new rows bring: the seed of the next draw, and moments of zero."""
        for p in params:
            self.layer_of[p].due = self.layer_of[p].fresh = False
            if "seed" in self.state[p]:
                self.state[p]["seed"] += len(self.layer_of)
        if params and self.method.reset:
            torch._foreach_zero_([self.state[p][key] for p in params for key in ("exp_avg", "exp_avg_sq")])
            for p in params:
                self.state[p]["step"] = 0

    def _update_batch(self, params: list[Tensor], group: Group) -> None:
        """Adam's steps of all, by one kernel; then each to its rows. On zeros, with lr 1, it leaves minus the step."""
        states, weights = [self.state[p] for p in params], [self.layer_of[p].weight for p in params]
        updates = like_views(params[0].new_zeros(sum(p.numel() for p in params)), params)
        counts = {count: step_tensor(count, params[0].device) for count in {state["step"] for state in states}}
        fused_adamw_(
            updates,
            [p.grad for p in params],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [counts[state["step"]] for state in states],
            lr=1.0,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=0.0,
        )
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, state, update in zip(weights, states, updates, strict=True):
            if "scale" in state:
                update.mul_(state["scale"].unsqueeze(1))
            weight.index_add_(0, state["rows"], update, alpha=group["lr"] * self.method.scale)


@dataclass(frozen=True, slots=True)
class Grass(RankedMethod):
    """Gradients and moments of R rows of every matrix, chosen anew now and then."""

    name: ClassVar[str] = "grass"
    paper: ClassVar[str] = "arXiv:2406.17660"
    treats: ClassVar[str] = "attention and MLP matrices; the rest is trained by AdamW"
    update_scalars: ClassVar[int] = 4  # the step count, fp32, that the fused kernel reads

    rank: int | None = setting(None, "how many rows R; default a quarter of the smallest side, at most 256", least=1)
    update_gap: int = setting(200, "steps from one choice of rows to the next", least=1)
    choice: str = setting(
        TOP, "top: the largest rows; the others draw rows by squared norm", choices=CHOICES, papers="all three"
    )
    reset: bool = setting(True, "new rows begin with moments of zero", papers="true")
    scale: float = setting(0.25, "factor on the update", above=0)
    lr: float = setting(0.01, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.0, "decoupled weight decay, of all rows", least=0)
    seed: int = setting(0, "of the draws", least=0, most=2**30)

    def prepare(self, model: nn.Module) -> GrassOptimizer:
        weights = [weight for weight, _ in named_weights(model)]
        method = self.bind(weights)
        rank = known_rank(self.name, method.rank)
        replace_matrices(model, lambda _, linear: GrassLinear(linear, rank, self.choice))
        return GrassOptimizer(model, method, self.scratch_limit(weights))

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return largest_nbytes(weights)

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.is_matrix

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: W (M, N) + one element that anchors the gradient; gradient (R, N); exp_avg + exp_avg_sq (R, N) +
        rows (R,) int32 [+ scale (R,) where they are drawn]; transient: Adam's step (R, N). In backward R channels of
        the output's gradient, (R,) a token; when rows are chosen the full gradient (M, N) and the norms of its rows
        (M,) fp32, in passing. All but rows and norms in the parameter dtype. Other weights: exp_avg + exp_avg_sq.
        """
        if not weight.is_matrix:
            return adamw_footprint(weight)
        rank = known_rank(self.name, self.rank)
        bound_rank(self.name, rank, [weight])
        low = rank * weight.shape[1] * weight.itemsize
        selection = rank * (INT32_BYTES + (0 if self.choice == TOP else weight.itemsize))
        return Footprint(
            param=weight.nbytes + weight.itemsize,
            grad=low,
            optimizer_state=2 * low + selection,
            transient=low,
            backward=SelectedBackward.of(weight, rank),
        )
