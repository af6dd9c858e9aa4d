"""AdamW: Adam with decoupled weight decay, on every weight. The baseline of every paper.

Loshchilov and Hutter 2017, arXiv:1711.05101; it is torch.optim.AdamW(fused=True), bit for bit and byte for byte.

With `state_dtype` the moments have a precision of their own, as in papers' rows "weights bf16, optimizer states fp32".
torch's kernel wants one dtype, so weights and gradients (or moments) below fp32 then go through fp32 copies, piece by
piece: the update is computed in fp32, and each weight rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from memprof.errors import MemprofError
from memprof.method import Footprint, Method, Weight
from memprof.optimizer import PIECE, KeepsDtypes, MethodOptimizer, fused_adamw_, mixed_adamw_, with_grad
from memprof.setting import setting

STEP_BYTES = 4
"""torch keeps each tensor's step count as an fp32 scalar beside its moments"""
COPY_BYTES = 2 * 4
"""an element of weight and gradient, or of both moments, in fp32"""
STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class AdamWFields(Protocol):
    """A method with AdamW's hyperparameters."""

    @property
    def lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


class FusedAdamW(MethodOptimizer):
    """torch.optim.AdamW(fused=True) that also accepts meta tensors. One kernel call a step, no temporaries."""

    kernel = staticmethod(fused_adamw_)

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @classmethod
    def of(cls, model: nn.Module, method: AdamWFields, **more: Any) -> Self:
        """Over what `model` trains, with the hyperparameters of `method` and what else a subclass asks for."""
        params = (p for p in model.parameters() if p.requires_grad)
        return cls(params, lr=method.lr, betas=method.betas, eps=method.eps, weight_decay=method.weight_decay, **more)

    def update(self) -> None:
        for group in self.param_groups:
            self.update_group(group, group["lr"])

    def update_group(self, group: dict[str, Any], lr: float) -> None:
        """One AdamW update of a group, at a learning rate that may differ from the group's own."""
        params = with_grad(group)
        states = [self._state(p) for p in params]
        steps = [state["step"] for state in states]
        if params:
            torch._foreach_add_(steps, 1)
        self.kernel(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            steps,
            lr=lr,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = self.new_moment(p), self.new_moment(p)
        return state

    def new_moment(self, p: Tensor) -> Tensor:
        return torch.zeros_like(p)


class MixedAdamW(KeepsDtypes, FusedAdamW):
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
            transient=0 if itemsize == weight.itemsize else COPY_BYTES * min(weight.numel, PIECE),
        )
