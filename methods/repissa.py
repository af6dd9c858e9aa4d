"""RePiSSA: PiSSA merged every few thousand steps, and begun afresh from the merged weight's own principal part.

"Approximations may be all you need: Towards Pre-training LLMs with Low-Rank Decomposition and Optimizers" (NeurIPS
2024), section 4.1; no public code. Adapter as in `pissa`; merge, pruning of moments, climb of the learning rate and
warm start as in `restart`. Shapes: a weight is (M, N); R is the rank, A is (R, N) and B is (M, R).

At a merge: W = W_res + s B A, its SVD, A and B its top R triplets, W_res the rest. The function stays the same, up to
rounding; the adapters' moments belong to the old triplets, and most of them are pruned away.

The paper's memory table gives it ReLoRA's figures, which is right between merges; at one it needs U, V^T and, in bf16,
a copy of W, all in fp32: more than three times a square bf16 W each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memprof.method import Footprint, Weight
from memprof.methods.pissa import PiSSA, svd_bytes
from memprof.methods.relora import Restarting


@dataclass(frozen=True, slots=True)
class RePiSSA(Restarting, PiSSA):
    """PiSSA with a merge and a new decomposition every `reset_every` steps."""

    name: ClassVar[str] = "repissa"
    paper: ClassVar[str] = "Approximations may be all you need"

    def merge_bytes(self, weight: Weight, rank: int) -> int:
        return svd_bytes(weight)

    def formula(self, weight: Weight) -> Footprint:
        """LoRA's. At a merge, of one layer at a time and with w = 4 bytes (8 for fp64), S = min(M, N):
        copy of W (M, N) w, for bf16 and fp16 only + U (M, S) w + singular values (S,) w + V^T (S, N) w;
        or the scratch of pruning, where that is more (see `relora`). LAPACK's workspace is not in it.
        """
        return Restarting.formula(self, weight)
