"""AdamW: Adam with decoupled weight decay, on every weight. The baseline of every paper.

Loshchilov and Hutter 2017, arXiv:1711.05101; it is torch.optim.AdamW(fused=True), bit for bit and byte for byte.

With `state_dtype` the moments have a precision of their own, as in papers' rows "weights bf16, optimizer states fp32".
torch's kernel wants one dtype, so weights and gradients (or moments) below fp32 then go through fp32 copies, piece by
piece: the update is computed in fp32, and each weight rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.method import STEP, Footprint, Method, Weight
from memprof.methods.parts.fused_adamw import FusedAdamW
from memprof.optimizer import PIECE, mixed_adamw_
from memprof.setting import setting

STEP_BYTES = 4
"""torch keeps each tensor's step count as an fp32 scalar beside its moments"""
COPY_BYTES = 2 * 4
"""an element of weight and gradient, or of both moments, in fp32"""
STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class MixedAdamW(FusedAdamW):
    """AdamW with moments of one dtype, whatever the parameters'."""

    kernel = staticmethod(mixed_adamw_)

    def __init__(self, params: Iterable[nn.Parameter], *, moment_dtype: torch.dtype, **hyperparameters: Any) -> None:
        super().__init__(params, **hyperparameters)
        self.moment_dtype = moment_dtype

    def new_moment(self, p: Tensor) -> Tensor:
        return torch.zeros_like(p, dtype=self.moment_dtype)


@dataclass(frozen=True, slots=True)
class AdamW(Method):
    """Full-rank AdamW with moments in the parameter's dtype."""

    name: ClassVar[str] = "adamw"
    paper: ClassVar[str] = "arXiv:1711.05101"
    treats: ClassVar[str] = "every weight"

    lr: float = setting(1e-3, "learning rate", above=0, papers='"Approximations may be all you need": 5e-4')
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "decay of the first and second moment", least=0, below=1, papers="0.9/0.999"
    )
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.01, "decoupled weight decay", least=0, papers="GaLore's: 0")
    state_dtype: str | None = setting(
        None,
        "precision of the moments; none: the weights'",
        choices=tuple(STATE_DTYPES),
        papers='"Approximations may be all you need": bf16 and fp32',
    )

    def prepare(self, model: nn.Module) -> FusedAdamW:
        if self.state_dtype is None:
            return FusedAdamW.of(model, self)
        dtype = STATE_DTYPES[self.state_dtype]
        if dtype == torch.bfloat16 and any(p.dtype == torch.float16 for p in model.parameters()):
            raise MemprofError(
                "adamw: state_dtype=bf16 does not go with fp16 weights; use fp32, or none for fp16 moments"
            )
        return MixedAdamW.of(model, self, moment_dtype=dtype)

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return 0 if self.state_dtype is None else COPY_BYTES * PIECE

    def formula(self, weight: Weight) -> Footprint:
        """exp_avg (out, in) + exp_avg_sq (out, in) in the parameter dtype, or in state_dtype, + step () fp32.

        Transient, where those two differ: fp32 copies of weight and gradient, or of both moments, whichever are not
        fp32; 8 bytes an element, of at most 7680 * 256 elements at a time.
        """
        itemsize = weight.itemsize if self.state_dtype is None else STATE_DTYPES[self.state_dtype].itemsize
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=2 * weight.numel * itemsize + STEP_BYTES,
            parts={STEP: STEP_BYTES},
            transient=0 if itemsize == weight.itemsize else COPY_BYTES * min(weight.numel, PIECE),
        )
