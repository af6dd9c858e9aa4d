"""ReMoRA: MoRA merged into the weight every few thousand steps and begun afresh, with its inputs grouped anew.

Jiang et al. 2024, arXiv:2405.12130; follows kongds/MoRA (de5df31). Layer as in `mora`; climb of the learning rate,
pruning of moments and warm start as in `restart`. Shapes: a weight is (M, N), S is (Q, Q).

At a merge: W += what the adapter does to the unit vectors, in place; S zero; and with sharing, the default here, the
groups change, so that ranks add up: types 1, 2, 3, 4, 1, ... of `mora`. The function stays the same, up to rounding.

What differs, and what to know:
* The repository deletes the state of S at a merge, its step count too, so that bias correction begins again. That is
  what prune = 1, the default, does here, in place; with less the step count stays, as in `relora`.
* It cannot turn: its ReMoRA knows the types 1 to 4 alone. Here S begins afresh under the same rotation.
* After a merge its scheduler starts over from the learning rate of that moment; ours is on top of the user's own.
* It merges through a matrix (M, N) that it fills in a Python loop over the inputs; ours sends unit vectors through the
  adapter, at most 1024 at a time.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from memprof.method import Footprint, Weight, named_weights
from memprof.methods.mora import MoRA
from memprof.methods.parts.mora_linear import UNITS, MoRALinear
from memprof.methods.parts.restart import PRUNE, RestartOptimizer, prune_bytes
from memprof.methods.parts.square_compression import ROTATION, SHARING, TYPES
from memprof.setting import setting


class ReMoRAOptimizer(RestartOptimizer):
    """AdamW that merges and restarts; the number of merges, which says how inputs are grouped, is in its state."""

    def __init__(self, model: nn.Module, method: ReMoRA) -> None:
        super().__init__(model, method)
        self.param_groups[0]["merges"] = 0

    def restart(self) -> None:
        super().restart()
        self.param_groups[0]["merges"] += 1
        self._regroup()
        if self.method.prune == 1:
            for layer in self.layers:
                if state := self.state.get(layer.adapter()[0]):
                    state["step"].zero_()

    def _regroup(self) -> None:
        for layer in typing.cast("list[MoRALinear]", self.layers):
            layer.kind = 1 + self.param_groups[0]["merges"] % len(TYPES)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._regroup()


@dataclass(frozen=True, slots=True)
class ReMoRA(MoRA):
    """MoRA with a merge, a restart and another grouping every `reset_every` steps."""

    name: ClassVar[str] = "remora"

    grouping: str = setting(
        SHARING,
        "how inputs become the square's: shared by groups that change at a merge, or pieces turned as by RoPE",
        choices=(ROTATION, SHARING),
        papers="sharing",
    )
    lr: float = setting(5e-4, "learning rate", above=0, papers="5e-4")
    reset_every: int = setting(2000, "steps between merges", least=1, papers="2000")
    restart_warmup: int = setting(
        50, "steps over which the learning rate climbs back after a merge", least=0, papers="50"
    )
    prune: float = setting(
        1.0, "share of the square's moments zeroed at a merge; 1: step counts as well", least=0, most=1, papers="1"
    )
    prune_by: str = setting("random", "which entries are zeroed: any, or those of least magnitude", choices=(*PRUNE,))
    warm_start: int = setting(
        0,
        "updates of full-rank AdamW before the adapters; figures are of the steps after, those before cost as adamw",
        least=0,
    )

    def prepare(self, model: nn.Module) -> ReMoRAOptimizer:
        return ReMoRAOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def formula(self, weight: Weight) -> Footprint:
        """MoRA's. At a merge, of one layer at a time: T = min(1024, N) unit vectors (T, N), compressed and mapped by S,
        (T, P Q) or (T, Q) each; or the scratch of pruning a moment (Q, Q): a bool mask, one byte an element, or, by
        magnitude, 16 bytes an element.
        """
        plain = MoRA.formula(self, weight)
        if not weight.is_matrix:
            return plain
        side, width = self.sides(weight)
        columns, e = weight.shape[1], weight.itemsize
        compressed = 0 if self.grouping == SHARING and columns == side else width
        merging = min(UNITS, columns) * (columns + compressed + width) * e
        return dataclasses.replace(plain, refresh=max(merging, prune_bytes(self.prune_by, side**2, e)))

    def refresh_steps(self, horizon: int) -> range:
        """The merges; the switch of a warm start is not one of them."""
        return range(self.warm_start + self.reset_every - 1, horizon, self.reset_every)
