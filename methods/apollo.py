"""APOLLO: SGD whose step is scaled, channel by channel or matrix by matrix, as Adam scales the gradient's projection.

Zhu et al. 2024, "APOLLO: SGD-like Memory, AdamW-level Performance", arXiv:2412.05270. Follows the authors'
apollo_torch 1.0.3 (APOLLOAdamW, proj_type "std"). Attention and MLP matrices are treated; embedding, head and norms
take the authors' AdamW, Hugging Face's. The step is in apollo_optimizer.py. Shapes: see
gradient_scaling.py; P is the projector, (S, R).

    low = G P (of G seen as (L, S)), m and v its moments, s = |m / (sqrt(v) + eps)| / |low| by channel or by matrix,
    W = W - lr * bias correction * sqrt(scale) * limited(s * G)

APOLLO-Mini is rank 1, one s a matrix, scale 128. The limiter is Fira's: the norm of s * G grows by 1% a step at most.

Where paper, code and this differ:
* the paper counts 2 n r + 2 elements of state for an (m, n) weight, m <= n: moments, norm and seed, with P
  drawn anew from its seed in every step. The code keeps P, another m r, and so does store_projector=true; with false P
  is drawn where Adam's step is to stand, so that it takes no memory at all, and training is the same bit for bit;
* the paper's alpha is the square root of the code's scale; the paper has P ~ N(0, 1/r), as the code has;
* the code makes three or four full-size temporaries (s * G, the limited, the scaled one): here none is made. The norm
  of s * G is that of the channels' norms times s;
* the code keeps the last norm in the parameter's dtype, where bf16 cannot tell 1.01 from 1.008; here the limit made of
  it is kept, in fp32;
* its flag scale_front changes nothing but the 1e-8 in the limiter, and disable_nl is left out.

Pitfalls: a low-rank gradient of zeros gives s = 0, and one gradient of zeros lets the limiter hold a matrix near its
place for 2000 steps. In pure fp16 s overflows where gradients are below 1e-5: use bf16 or fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from memprof.errors import MemprofError
from memprof.method import (
    BASIS,
    Footprint,
    Method,
    Weight,
    bound_rank,
    known_rank,
    named_weights,
)
from memprof.methods.parts.apollo_optimizer import ApolloOptimizer
from memprof.methods.parts.gradient_scaling import ScalingMethod, state_bytes
from memprof.methods.parts.projection import refresh_bytes
from memprof.optimizer import adamw_footprint
from memprof.setting import setting


@dataclass(frozen=True, slots=True)
class Apollo(ScalingMethod):
    """Gradient descent, each channel scaled as Adam scales it in a random subspace."""

    name: ClassVar[str] = "apollo"
    paper: ClassVar[str] = "arXiv:2412.05270"

    rank: int | None = setting(
        None, "rank of the subspace; a quarter of the smallest side, at most 256", least=1, papers="a quarter; mini: 1"
    )
    update_gap: int = setting(200, "steps from one projector to the next", least=1, papers="200")
    projection: str = setting("random", "where projectors come from", choices=("random", "svd"), papers="random; svd")
    scale_type: str = setting(
        "channel", "what has a scale of its own", choices=("channel", "tensor"), papers="channel; mini: tensor"
    )
    store_projector: bool = setting(True, "keep a random projector, not its seed alone", papers="false; its code: true")
    scale: float = setting(1.0, "updates are multiplied by its root", above=0, papers="1; mini: 128")
    growth: float = setting(1.01, "most that the update's norm may grow by in a step", least=1, papers="1.01")
    lr: float = setting(0.01, "learning rate", above=0, papers="0.01")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(
        1e-6, "added to the root of the second moment before its bias correction", above=0, papers="1e-6"
    )
    weight_decay: float = setting(0.0, "decoupled weight decay, after the update", least=0, papers="0")

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        if self.projection == "svd" and not self.store_projector:
            raise MemprofError(f"{self.name}: store_projector=false needs projection=random: a seed gives no svd")

    def prepare(self, model: nn.Module) -> ApolloOptimizer:
        return ApolloOptimizer(model, self.bind(weight for weight, _ in named_weights(model)))

    def refresh_steps(self, horizon: int) -> Sequence[int]:
        return range(0, horizon, self.update_gap)

    def formula(self, weight: Weight) -> Footprint:
        """A matrix: exp_avg (L, R) + exp_avg_sq (L, R) + limit () fp32 [+ basis (S, R) with store_projector],
        else in the parameter dtype. The seed is a number of the host's. Other weights: AdamW.

        Transient: Adam's step (L, R) + low-rank gradient (L, R) + their norms (2, L), by matrix (2,). Drawing a random
        projector takes no scratch.
        """
        rank = known_rank(self.name, self.rank)
        if not weight.is_matrix:
            return adamw_footprint(weight)
        bound_rank(self.name, rank, [weight])
        long, e = max(weight.shape), weight.itemsize
        basis = rank * min(weight.shape) * e if self.store_projector else 0
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=state_bytes(weight, rank) + basis,
            parts={BASIS: basis},
            transient=2 * (rank * long + (long if self.scale_type == "channel" else 1)) * e,
            refresh=refresh_bytes(weight, rank) if self.projection == "svd" else 0,
        )


@dataclass(frozen=True, slots=True)
class ApolloMini(Apollo):
    """APOLLO of rank 1 with one scale a matrix: as much state as SGD with next to nothing."""

    name: ClassVar[str] = "apollo-mini"

    rank: int | None = setting(1, "rank of the subspace; none: a quarter of the smallest side", least=1, papers="1")
    scale_type: str = setting("tensor", "what has a scale of its own", choices=("channel", "tensor"), papers="tensor")
    scale: float = setting(128.0, "updates are multiplied by its root", above=0, papers="128")
