"""GaLore with error feedback: what projecting leaves out of a gradient is added, in part, to the next one.

"Approximations may be all you need: towards pre-training LLMs with low-rank decomposition and optimizers", section 4.2;
no code was published. Of a matrix, with S kept from step to step and w the field `feedback`:

    G = G + w S        R = P^T G        S = G - P R        and GaLore's update with R

Equation 7 leaves w out, which its experiments set to 0.1 alone and to 0.2 with the growing gaps of galore-dynamics.
The subspace is refreshed from the corrected gradient, and the residual is taken of it. P has orthonormal columns, so S
is what lies outside of the subspace, and between refreshes R is GaLore's own; only a refresh lets S count.

S has the weight's shape and the parameter's dtype, as the paper's memory counts it (0.563 GiB at 350m). The corrected
gradient is left in `p.grad`; it costs no further tensor, and a step costs one launch and one product a matrix more
than GaLore's. A gradient that is not finite spoils S as it spoils Adam's moments. The paper trains with lr 1.5e-3,
update_gap 50 and scale 1 at rank 256; the defaults here are GaLore's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from memprof.method import Footprint, Weight, named_weights
from memprof.methods.galore import GaLore
from memprof.methods.galore_dynamics import ApproximationsGaLore, GaLoreDynamics
from memprof.methods.parts.galore_optimizer import GaLoreOptimizer
from memprof.setting import setting


class ErrorFeedbackOptimizer(GaLoreOptimizer):
    """GaLore's optimizer; state[p] of a matrix also has the residual, (M, N) in the parameter's dtype."""

    def __init__(self, model: nn.Module, method: GaLore, feedback: float) -> None:
        super().__init__(model, method)
        self.feedback = feedback

    def _make_state(self, p: Tensor) -> bool:
        new = super()._make_state(p)
        if new:
            self.state[p]["residual"] = torch.zeros_like(p)
        return new

    def correct_gradients(self, params: Sequence[Tensor]) -> None:
        grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
        torch._foreach_add_(grads, [self.state[p]["residual"] for p in params], alpha=self.feedback)

    def keep_rests(self, params: Sequence[Tensor], lows: Sequence[Tensor], betweens: Sequence[Tensor]) -> None:
        for p, low, between in zip(params, lows, betweens, strict=True):
            assert p.grad is not None
            state = self.state[p]
            left, right = self.projection_of[p].factors(low, state, between)
            torch.addmm(p.grad, left, right, alpha=-1, out=state["residual"])


def with_residual(weight: Weight, plain: Footprint) -> Footprint:
    """GaLore's footprint and the residual of a matrix."""
    residual = weight.nbytes if weight.is_matrix else 0
    return dataclasses.replace(plain, optimizer_state=plain.optimizer_state + residual)


@dataclass(frozen=True, slots=True)
class GaLoreEF(ApproximationsGaLore):
    """GaLore that adds a tenth of what the last projection left out to the next gradient."""

    name: ClassVar[str] = "galore-ef"

    feedback: float = setting(0.1, "share of the last residual in the next gradient", papers="0.1", least=0, most=1)

    def prepare(self, model: nn.Module) -> ErrorFeedbackOptimizer:
        return ErrorFeedbackOptimizer(model, self.bind(w for w, _ in named_weights(model)), self.feedback)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: GaLore's + residual (M, N), in the parameter dtype. Other weights: GaLore's."""
        return with_residual(weight, GaLore.formula(self, weight))


@dataclass(frozen=True, slots=True)
class GaLoreDynamicsEF(GaLoreDynamics):
    """Error feedback of a fifth, and gaps between refreshes that grow."""

    name: ClassVar[str] = "galore-dynamics-ef"

    feedback: float = setting(0.2, "share of the last residual in the next gradient", papers="0.2", least=0, most=1)

    def prepare(self, model: nn.Module) -> ErrorFeedbackOptimizer:
        return ErrorFeedbackOptimizer(model, self.bind(w for w, _ in named_weights(model)), self.feedback)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: GaLore's + residual (M, N), in the parameter dtype. Other weights: GaLore's."""
        return with_residual(weight, GaLore.formula(self, weight))
