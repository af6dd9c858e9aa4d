"""AdamW with block-wise 8-bit moments, on every weight.

Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization", arXiv:2110.02861. Sizes are those of
bitsandbytes 0.50, AdamW8bit, whose blocks have 256 elements (the paper's, 2048); `parts.blockwise` has the codes.
Moments of fewer than 4096 elements, those of norms, stay in fp32. The update itself uses the moments before they are
rounded, as in both public implementations.

What differs elsewhere:
* bitsandbytes' CUDA kernel decays the weight after the update; its CPU and Triton kernels, torchao, torch's AdamW and
  ours decay it before. The paper's StableEmbedding (a norm behind the embedding, whose moments stay in fp32) is left
  out, as in all LLaMA runs.
* bitsandbytes makes one kernel call a weight, without scratch, and waits for the GPU after each; torchao compiles one
  for every shape. Here some twenty torch operators update a piece of up to two million elements.
* torchao keeps a map for every moment, 2 KiB a weight, and exempts other sizes; see `memprof.methods.parts.blockwise`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from memprof.method import Footprint, Method, Weight
from memprof.methods.parts import blockwise
from memprof.methods.parts.adam8bit import adam8bit_
from memprof.optimizer import Group, KeepsDtypes, MethodOptimizer, step_tensor, with_grad
from memprof.setting import setting


class AdamW8bitOptimizer(KeepsDtypes, MethodOptimizer):
    """AdamW over parameters of any shape. The steps are counted in the parameter group, not per weight."""

    takes_groups = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        super().__init__(params, defaults)
        self.maps = blockwise.Maps(self.param_groups[0]["params"][0].device)

    def update(self) -> None:
        for group in self.param_groups:
            params = with_grad(group)
            if params:
                group["step"] += 1
                self._update(params, group)

    def _update(self, params: list[Tensor], group: Group) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(blockwise.new_moments(p))
        adam8bit_(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [self.state[p] for p in params],
            self.maps,
            step_tensor(group["step"], params[0].device),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )


@dataclass(frozen=True, slots=True)
class AdamW8bit(Method):
    """AdamW whose moments take a byte an element each, beside a magnitude for every 256 of them."""

    name: ClassVar[str] = "adamw-8bit"
    paper: ClassVar[str] = "arXiv:2110.02861"
    treats: ClassVar[str] = "every weight; moments of fewer than 4096 elements stay in fp32"
    update_scalars: ClassVar[int] = blockwise.UPDATE_SCALARS

    # bitsandbytes' defaults, but for its weight decay of 1e-2, which is the default here too
    lr: float = setting(1e-3, "learning rate", above=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moment", least=0, below=1)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0)
    weight_decay: float = setting(0.01, "decoupled weight decay", least=0)

    def prepare(self, model: nn.Module) -> AdamW8bitOptimizer:
        return AdamW8bitOptimizer(
            (p for p in model.parameters() if p.requires_grad),
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def shared(self) -> int:
        """The two maps of 256 numbers, fp32."""
        return blockwise.MAP_BYTES

    def scratch_limit(self, weights: Iterable[Weight]) -> int:
        return blockwise.SCRATCH_LIMIT

    def formula(self, weight: Weight) -> Footprint:
        """exp_avg and exp_avg_sq, n codes uint8 each + two magnitudes fp32 for every 256 elements begun; of a weight
        of fewer than 4096 elements exp_avg + exp_avg_sq, fp32. Once: two maps (256,) fp32.

        Transient, for every 256 elements begun, of at most 7680 * 256 at a time: two moments fp32, their codes int32
        (or parameter and gradient, fp32) and two magnitudes, 4104 bytes. Of a small weight below fp32: parameter and
        gradient, fp32. Beside it: the step () fp32 and 511 borders between the maps' numbers, fp32.
        """
        return Footprint(
            param=weight.nbytes,
            grad=weight.nbytes,
            optimizer_state=blockwise.moment_bytes(weight.numel),
            transient=blockwise.scratch_bytes(weight.numel, weight.itemsize),
        )
