"""Adafactor: the second moment of a matrix kept as one number per row and one per column.

Shazeer and Stern 2018, arXiv:1804.04235; it follows the Adafactor of transformers (fairseq's), which GaLore's
experiments run with relative_step=False and scale_parameter=False: the defaults here. GaLore's table says "Adafactor
with first-order statistics": that is beta1=0.9.
Shapes: a weight is (O, I), out x in; a norm is (D,); G weights of one shape are updated together. States are fp32
whatever the parameter's dtype. The update is in adafactor_update.py, its arithmetic in factored_moments.py.

Paper and code: the paper steps by alpha_t = max(eps2, RMS(W)) * rho_t, which is scale_parameter=True with lr for rho_t;
its own schedule of rho_t (relative_step) is left to a learning-rate scheduler. With beta1 the code averages updates
that already carry the learning rate, so a schedule reaches old updates late; so does this one. Per weight,
transformers makes fp32 copies of parameter and gradient, a full-size g^2 and a full-size update, and keeps RMS(W), a
scalar it only looks at; here the fp32 update is the one full-size tensor, and below fp32 a copy of the parameter.
torch.optim.Adafactor keeps its factors in the parameter's dtype and asks the host twice per weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight, named_weights
from memprof.methods.parts.adafactor_update import update_together_
from memprof.methods.parts.batches import Batches
from memprof.methods.parts.factored_moments import FP32_BYTES, decay_moments_, new_state
from memprof.optimizer import KeepsDtypes, MethodOptimizer, with_grad
from memprof.setting import setting


class AdafactorOptimizer(KeepsDtypes, MethodOptimizer):
    """Adafactor over parameters of any shape, those of one shape together."""

    def __init__(self, model: nn.Module, method: Adafactor) -> None:
        pairs = [(weight, p) for weight, p in named_weights(model) if p.requires_grad]
        self.batches = Batches(method, {p: weight for weight, p in pairs})
        super().__init__([p for _, p in pairs], {**method.hyperparameters(), "step": 0})

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                group["step"] += 1
                self._update(params, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = new_state(p, p.shape, group["beta1"] is not None)
        decay_moments_([self.state[p] for p in params], group)
        for batch in self.batches.of(params):
            update_together_(batch, [self.state[p] for p in batch], group)


@dataclass(frozen=True, slots=True)
class Adafactor(Method):
    """Adafactor as GaLore's experiments run it: a given learning rate, fp32 factors."""

    name: ClassVar[str] = "adafactor"
    paper: ClassVar[str] = "arXiv:1804.04235"
    treats: ClassVar[str] = "every weight; vectors keep a full second moment"

    lr: float = setting(1e-3, "learning rate (times RMS(W) with scale_parameter)", above=0)
    beta1: float | None = setting(
        None,
        "decay of the averaged updates; none keeps no first moment",
        least=0,
        below=1,
        papers="none; GaLore's: 0.9",
    )
    decay_rate: float = setting(-0.8, "the second moment decays by 1 - t**decay_rate at step t", below=0, papers="-0.8")
    eps1: float = setting(1e-30, "added to the squared gradient", above=0, papers="1e-30")
    eps2: float = setting(1e-3, "least RMS(W) that scale_parameter multiplies by", least=0, papers="1e-3")
    clip_threshold: float = setting(1.0, "largest RMS of an update before the learning rate", above=0, papers="1")
    weight_decay: float = setting(0.0, "decoupled weight decay", least=0)
    scale_parameter: bool = setting(
        False, "step in proportion to RMS(W), as in the paper", papers="true; GaLore's: false"
    )

    def prepare(self, model: nn.Module) -> AdafactorOptimizer:
        return AdafactorOptimizer(model, self)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        """Weights of one shape together take no more scratch than the weight that needs most takes alone."""
        return max(self.formula(weight).transient for weight in weights)

    def update_kind(self, weight: Weight) -> Hashable:
        return weight.shape

    def formula(self, weight: Weight) -> Footprint:
        """State: [exp_avg (O, I) with beta1] + exp_avg_sq_row (O,) + exp_avg_sq_col (I,), fp32;
        of a norm: [exp_avg (D,) with beta1] + exp_avg_sq (D,), fp32.

        Transient: squares, then update (O, I), beside factors (O,) and (I,), or beside the rows' factor (O,), their
        norms (O,) and its own (), fp32; of a norm: update (D,) and its factor (D,). Below fp32, and without beta1, at
        least: update (O, I), fp32 copy of the weight (O, I) and factor (O,), of a norm (). With scale_parameter also
        the step size ().
        """
        n = weight.numel
        if len(weight.shape) > 1:
            rows, cols = n // weight.shape[-1], n // weight.shape[-2]
            moments, alive = rows + cols, n + rows + max(cols, rows + 1)
        else:
            rows, moments, alive = 1, n, 2 * n
        if weight.itemsize < FP32_BYTES and self.beta1 is None:
            alive = max(alive, 2 * n + rows)
        width = max(FP32_BYTES, weight.itemsize)
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=width * (moments + (0 if self.beta1 is None else n)),
            transient=width * (alive + self.scale_parameter),
        )
