"""ReDoRA: DoRA merged every few thousand steps, and begun afresh from the merged weight.

"Approximations may be all you need: Towards Pre-training LLMs with Low-Rank Decomposition and Optimizers" (NeurIPS
2024), section 4.1; no public code. Layer as in `dora`; pruning of moments, climb of the learning rate and warm start as
in `restart`. Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R), m is (M,).

At a merge: W = m (W + s B A) / ||W + s B A||, m the length of its rows again, A random, B zero. The function stays the
same, up to rounding. The magnitudes are decomposed anew, as A and B are, so their moments are pruned as theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memprof.method import Footprint, Weight
from memprof.methods.dora import DoRA, merge_bytes
from memprof.methods.relora import Restarting


@dataclass(frozen=True, slots=True)
class ReDoRA(Restarting, DoRA):
    """DoRA with a merge and a restart every `reset_every` steps."""

    name: ClassVar[str] = "redora"
    paper: ClassVar[str] = "Approximations may be all you need"

    def merge_bytes(self, weight: Weight, rank: int) -> int:
        return merge_bytes(weight, rank)

    def formula(self, weight: Weight) -> Footprint:
        """DoRA's. At a merge, of one layer at a time, e the itemsize and w = 4 bytes (8 for fp64): W A^T (M, R) e and
        beside it A A^T (R, R) e or norms (M,) w; or the scratch of pruning, where that is more (see `relora`).
        """
        return Restarting.formula(self, weight)
